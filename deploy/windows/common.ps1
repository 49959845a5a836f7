#Requires -Version 5.1
<#
.SYNOPSIS
What the other scripts share. They load it; by itself it does nothing.
.DESCRIPTION
The two functions that change something take -WhatIf from the script that calls them.
#>
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

function Assert-Administrator {
    $identity = [Security.Principal.WindowsIdentity]::GetCurrent()
    $principal = New-Object -TypeName Security.Principal.WindowsPrincipal -ArgumentList $identity
    if (-not $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)) {
        throw 'This needs an administrator: open PowerShell with "Run as administrator" and run it again.'
    }
}

function Test-WingetPackage {
    param([Parameter(Mandatory = $true)] [string] $Id)
    if (-not (Get-Command -Name 'winget.exe' -ErrorAction SilentlyContinue)) {
        throw "winget.exe was not found. Update 'App Installer' in the Microsoft Store, or install $Id by hand."
    }
    & winget.exe list --id $Id --exact --source winget --accept-source-agreements | Out-Null
    return ($LASTEXITCODE -eq 0)
}

function Install-WingetPackage {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([Parameter(Mandatory = $true)] [string] $Id)
    if (Test-WingetPackage -Id $Id) {
        Write-Output "$Id is here already."
        return
    }
    if ($PSCmdlet.ShouldProcess($Id, 'Install')) {
        & winget.exe install --id $Id --exact --source winget --accept-source-agreements
        $code = $LASTEXITCODE
        # A package that wants a restart is installed, although winget does not end with 0.
        if ($code -ne 0 -and -not (Test-WingetPackage -Id $Id)) { throw "winget.exe ended with $code" }
    }
}

function Uninstall-WingetPackage {
    [CmdletBinding(SupportsShouldProcess = $true)]
    param([Parameter(Mandatory = $true)] [string] $Id)
    if (-not (Test-WingetPackage -Id $Id)) {
        Write-Output "$Id is not here."
        return
    }
    if ($PSCmdlet.ShouldProcess($Id, 'Uninstall')) {
        & winget.exe uninstall --id $Id --exact --source winget
        if ($LASTEXITCODE -ne 0) { throw "winget.exe ended with $LASTEXITCODE" }
    }
}
