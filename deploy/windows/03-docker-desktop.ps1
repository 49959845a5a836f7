#Requires -Version 5.1
<#
.SYNOPSIS
Installs Docker Desktop with winget. Needs an administrator. Its volumes stay when it is removed with -Undo.
.EXAMPLE
.\03-docker-desktop.ps1 -WhatIf
.EXAMPLE
.\03-docker-desktop.ps1 -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param([switch] $Undo)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
. (Join-Path -Path $PSScriptRoot -ChildPath 'common.ps1')

$package = 'Docker.DockerDesktop'
if ($Undo) {
    if ($PSCmdlet.ShouldProcess($package, 'Remove with winget')) {
        Assert-Administrator
        Uninstall-WingetPackage -Id $package
    }
} elseif ($PSCmdlet.ShouldProcess($package, 'Install with winget')) {
    Assert-Administrator
    Install-WingetPackage -Id $package
    Write-Output 'Sign out of Windows and in again, then start Docker Desktop once and accept its terms.'
    Write-Output 'In Settings, Resources, WSL integration, turn on your distribution.'
}
