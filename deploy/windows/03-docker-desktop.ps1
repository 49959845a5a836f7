#Requires -Version 5.1
<#
.SYNOPSIS
Installs Docker Desktop with winget. Its volumes stay when it is removed with -Undo.
.EXAMPLE
.\03-docker-desktop.ps1 -WhatIf
.EXAMPLE
.\03-docker-desktop.ps1 -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param([switch] $Undo)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$package = 'Docker.DockerDesktop'
if (-not (Get-Command -Name 'winget.exe' -ErrorAction SilentlyContinue)) {
    throw 'winget.exe was not found. Update "App Installer" in the Microsoft Store, or install Docker Desktop by hand.'
}
if ($Undo) {
    if ($PSCmdlet.ShouldProcess($package, 'Uninstall')) {
        & winget.exe uninstall --id $package --exact
        if ($LASTEXITCODE -ne 0) { throw "winget.exe ended with $LASTEXITCODE" }
    }
} elseif ($PSCmdlet.ShouldProcess($package, 'Install')) {
    & winget.exe install --id $package --exact --accept-source-agreements
    if ($LASTEXITCODE -ne 0) { throw "winget.exe ended with $LASTEXITCODE" }
    Write-Output 'Start Docker Desktop once. In Settings, Resources, WSL integration, turn on your distribution.'
}
