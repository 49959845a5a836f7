#Requires -Version 5.1
<#
.SYNOPSIS
A scheduled task that starts the stack in the distribution when this user logs on.
.EXAMPLE
.\06-autostart.ps1 -WhatIf
.EXAMPLE
.\06-autostart.ps1 -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [switch] $Undo,
    [ValidatePattern('^[A-Za-z0-9._-]+$')]
    [string] $Distribution = 'Ubuntu'
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$name = 'rfctl stack'
$task = Get-ScheduledTask -TaskName $name -ErrorAction SilentlyContinue
if ($Undo) {
    if ($task -and $PSCmdlet.ShouldProcess($name, 'Remove the scheduled task')) {
        Unregister-ScheduledTask -TaskName $name -Confirm:$false
    }
    return
}
# A login shell finds rfctl where the user installed it. Without rfctl the distribution still starts, and with
# it the containers (restart: unless-stopped). No character here needs more quotes than these two.
$line = "-d $Distribution --exec bash -lc `"rfctl stack up`""
if ($PSCmdlet.ShouldProcess($name, "Start $Distribution at log-on: wsl.exe $line")) {
    # Only a trigger of the user's own log-on may be made without an administrator.
    $user = [Security.Principal.WindowsIdentity]::GetCurrent().Name
    $values = @{
        TaskName = $name
        Action   = New-ScheduledTaskAction -Execute 'wsl.exe' -Argument $line
        Trigger  = New-ScheduledTaskTrigger -AtLogOn -User $user
        Settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
        Force    = $true
    }
    Register-ScheduledTask @values | Out-Null
}
