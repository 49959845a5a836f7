#Requires -Version 5.1
<#
.SYNOPSIS
Ollama on Windows: -Install brings the program; -Expose lets containers in WSL reach it.
.DESCRIPTION
-Expose sets OLLAMA_HOST for this user and adds a firewall rule for 172.16.0.0/12, the addresses that WSL uses; it
needs an administrator. In a network with such addresses, its machines get in too: Ollama has no password. Docker
Desktop does not need it. -Undo takes the rule back and puts the variable back as it was; -Undo -Install removes
the program too (models stay).
.EXAMPLE
.\04-ollama.ps1 -Expose -WhatIf
.EXAMPLE
.\04-ollama.ps1 -Expose -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [switch] $Undo,
    [switch] $Install,
    [switch] $Expose
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
. (Join-Path -Path $PSScriptRoot -ChildPath 'common.ps1')

$package = 'Ollama.Ollama'
$name = 'rfctl Ollama from WSL'
$open = '0.0.0.0'
# Where the value of before waits for -Undo.
$memory = 'RFCTL_OLLAMA_HOST_BEFORE'
if (-not $Install -and -not $Expose) { throw 'Say -Install, -Expose or both.' }

if ($Install -and -not $Undo -and $PSCmdlet.ShouldProcess($package, 'Install with winget')) {
    Install-WingetPackage -Id $package
}
if ($Expose) {
    $rule = Get-NetFirewallRule -DisplayName $name -ErrorAction SilentlyContinue
    $now = [Environment]::GetEnvironmentVariable('OLLAMA_HOST', 'User')
    if ($Undo) {
        if ($rule -and $PSCmdlet.ShouldProcess($name, 'Remove the firewall rule')) {
            Assert-Administrator
            Remove-NetFirewallRule -DisplayName $name
        }
        if ($now -eq $open -and $PSCmdlet.ShouldProcess('OLLAMA_HOST', 'Put back the value of before')) {
            $before = [Environment]::GetEnvironmentVariable($memory, 'User')
            # An empty value removes the variable.
            [Environment]::SetEnvironmentVariable('OLLAMA_HOST', $before, 'User')
            [Environment]::SetEnvironmentVariable($memory, $null, 'User')
            Write-Output 'Quit Ollama in the notification area and start it again.'
        }
    } else {
        if (-not $rule -and $PSCmdlet.ShouldProcess($name, 'Add a firewall rule for TCP 11434 from 172.16.0.0/12')) {
            Assert-Administrator
            $values = @{
                DisplayName   = $name
                Direction     = 'Inbound'
                Action        = 'Allow'
                Protocol      = 'TCP'
                LocalPort     = 11434
                RemoteAddress = '172.16.0.0/12'
                Profile       = 'Any'
            }
            New-NetFirewallRule @values | Out-Null
        }
        if ($now -ne $open -and $PSCmdlet.ShouldProcess('OLLAMA_HOST', 'Set to 0.0.0.0 for this user')) {
            [Environment]::SetEnvironmentVariable($memory, $now, 'User')
            [Environment]::SetEnvironmentVariable('OLLAMA_HOST', $open, 'User')
            Write-Output 'Quit Ollama in the notification area and start it again.'
        }
        # Windows makes such rules when somebody says no to its question; they win over every rule that allows.
        $blocking = @(Get-NetFirewallRule -Direction Inbound -Action Block -Enabled True -ErrorAction SilentlyContinue |
            Where-Object { $_.DisplayName -like 'ollama*' })
        if ($blocking.Count -gt 0) {
            Write-Warning 'The firewall has rules that block Ollama. Remove them in "Windows Defender Firewall with Advanced Security", Inbound Rules.'
        }
    }
}
if ($Install -and $Undo -and $PSCmdlet.ShouldProcess($package, 'Remove with winget')) {
    Uninstall-WingetPackage -Id $package
}
