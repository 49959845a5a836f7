#Requires -Version 5.1
<#
.SYNOPSIS
Installs WSL 2 with a distribution. Needs an administrator; Windows may ask for a restart.
.DESCRIPTION
-Undo only says how the distribution is removed: that deletes every file in it. -Undo -DeleteData does it.
.EXAMPLE
.\01-install-wsl.ps1 -WhatIf
.EXAMPLE
.\01-install-wsl.ps1 -Distribution Ubuntu
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [switch] $Undo,
    [switch] $DeleteData,
    [ValidatePattern('^[A-Za-z0-9._-]+$')]
    [string] $Distribution = 'Ubuntu'
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
$env:WSL_UTF8 = '1'

if ($Undo) {
    if (-not $DeleteData) {
        Write-Output "Nothing is removed. This deletes $Distribution and every file in it: wsl.exe --unregister $Distribution"
        return
    }
    if ($PSCmdlet.ShouldProcess($Distribution, 'Delete the distribution and every file in it')) {
        & wsl.exe --unregister $Distribution
        if ($LASTEXITCODE -ne 0) { throw "wsl.exe ended with $LASTEXITCODE" }
    }
    return
}
if ($PSCmdlet.ShouldProcess($Distribution, 'Install WSL 2 with this distribution')) {
    & wsl.exe --install --no-launch -d $Distribution
    if ($LASTEXITCODE -ne 0) {
        # The Store may be closed or stand still at 0 percent.
        & wsl.exe --install --no-launch --web-download -d $Distribution
        if ($LASTEXITCODE -ne 0) { throw "wsl.exe ended with $LASTEXITCODE" }
    }
    Write-Output 'Restart Windows if it asks for it, then open the distribution once: it asks for a name and a password.'
}
