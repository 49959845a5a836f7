#Requires -Version 5.1
<#
.SYNOPSIS
Installs WSL 2 with a distribution. Needs an administrator; Windows may ask for a restart.
.DESCRIPTION
A distribution that is there already stays as it is. -Undo only says how it is removed, because that deletes every
file in it; -Undo -DeleteData does it.
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
. (Join-Path -Path $PSScriptRoot -ChildPath 'common.ps1')

# Where WSL keeps the distributions of this user: the same in every language and version.
$found = @(Get-ChildItem -Path 'HKCU:\SOFTWARE\Microsoft\Windows\CurrentVersion\Lxss' -ErrorAction SilentlyContinue |
    Where-Object { $_.GetValue('DistributionName') -eq $Distribution })

if ($Undo) {
    if ($found.Count -eq 0) {
        Write-Output "$Distribution is not here."
    } elseif (-not $DeleteData) {
        Write-Output "Nothing is removed. This deletes $Distribution and every file in it: wsl.exe --unregister $Distribution"
    } elseif ($PSCmdlet.ShouldProcess($Distribution, 'Delete the distribution and every file in it')) {
        & wsl.exe --unregister $Distribution
        if ($LASTEXITCODE -ne 0) { throw "wsl.exe ended with $LASTEXITCODE" }
    }
    return
}
if ($found.Count -gt 0) {
    Write-Output "$Distribution is here already."
    return
}
if ($PSCmdlet.ShouldProcess($Distribution, 'Install WSL 2 with this distribution')) {
    Assert-Administrator
    & wsl.exe --install --no-launch -d $Distribution
    if ($LASTEXITCODE -ne 0) {
        # The Store may be closed or stand still at 0 percent.
        & wsl.exe --install --no-launch --web-download -d $Distribution
        if ($LASTEXITCODE -ne 0) {
            throw "wsl.exe ended with $LASTEXITCODE. If it asked for a restart: restart Windows and run this again."
        }
    }
    Write-Output "Restart Windows if it asks for it, then open $Distribution once from the start menu: it asks for a name and a password."
}
