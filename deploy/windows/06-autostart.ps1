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
# it the containers (restart: unless-stopped). The gateway is how containers reach Ollama on Windows in NAT mode.
$inside = 'if curl -fsS -m 2 -o /dev/null http://172.17.0.1:11434/api/version; then :; else ' +
    'RFCTL_HOST_GATEWAY=$(ip route show default | cut -d\" \" -f3); export RFCTL_HOST_GATEWAY; fi; rfctl stack up'
$line = "-d $Distribution --exec bash -lc `"$inside`""
if ($PSCmdlet.ShouldProcess($name, "Start $Distribution at log-on: wsl.exe $line")) {
    $user = "$env:USERDOMAIN\$env:USERNAME"
    $values = @{
        TaskName = $name
        Action   = New-ScheduledTaskAction -Execute 'wsl.exe' -Argument $line
        Trigger  = New-ScheduledTaskTrigger -AtLogOn -User $user
        Settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries
        Force    = $true
    }
    Register-ScheduledTask @values | Out-Null
}
