#Requires -Version 5.1
<#
.SYNOPSIS
Ollama on Windows: -Install brings the program; -Expose lets containers in WSL reach it, and nobody else.
.DESCRIPTION
-Expose sets OLLAMA_HOST for this user and adds a firewall rule for WSL's addresses (172.16.0.0/12); it needs an
administrator. Docker Desktop does not need it. -Undo takes the rule and the variable back; -Undo -Install
removes the program too (models stay).
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

$package = 'Ollama.Ollama'
$name = 'rfctl Ollama from WSL'
if (-not $Install -and -not $Expose) { throw 'Say -Install, -Expose or both.' }

if ($Install -and -not $Undo -and $PSCmdlet.ShouldProcess($package, 'Install')) {
    & winget.exe install --id $package --exact --accept-source-agreements
    if ($LASTEXITCODE -ne 0) { throw "winget.exe ended with $LASTEXITCODE" }
}
if ($Expose) {
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
}
if ($Install -and $Undo -and $PSCmdlet.ShouldProcess($package, 'Uninstall')) {
    & winget.exe uninstall --id $package --exact
    if ($LASTEXITCODE -ne 0) { throw "winget.exe ended with $LASTEXITCODE" }
}
