#Requires -Version 5.1
<#
.SYNOPSIS
Lets containers in WSL reach Ollama on Windows: OLLAMA_HOST and a firewall rule for WSL's addresses only.
.EXAMPLE
.\allow-ollama.ps1 -WhatIf
.EXAMPLE
.\allow-ollama.ps1 -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param([switch] $Undo)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$name = 'rfctl Ollama from WSL'
$rule = Get-NetFirewallRule -DisplayName $name -ErrorAction SilentlyContinue
if ($Undo) {
    if ($rule -and $PSCmdlet.ShouldProcess($name, 'Remove the firewall rule')) {
        Remove-NetFirewallRule -DisplayName $name
    }
    if ($PSCmdlet.ShouldProcess('OLLAMA_HOST', 'Remove the variable of this user')) {
        [Environment]::SetEnvironmentVariable('OLLAMA_HOST', $null, 'User')
    }
} else {
    if (-not $rule -and $PSCmdlet.ShouldProcess($name, 'Add a firewall rule for TCP 11434 from 172.16.0.0/12')) {
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
    if ($PSCmdlet.ShouldProcess('OLLAMA_HOST', 'Set to 0.0.0.0 for this user')) {
        [Environment]::SetEnvironmentVariable('OLLAMA_HOST', '0.0.0.0', 'User')
    }
}
Write-Output 'Quit Ollama in the notification area and start it again.'
