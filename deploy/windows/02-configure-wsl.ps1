#Requires -Version 5.1
<#
.SYNOPSIS
Merges the settings that RAGFlow needs into %UserProfile%\.wslconfig. Other keys and comments stay.
.PARAMETER Python
The interpreter that has rfctl; "rfctl deploy wsl plan" shows it.
.EXAMPLE
.\02-configure-wsl.ps1 -Python C:\...\python.exe -WhatIf
.EXAMPLE
.\02-configure-wsl.ps1 -Python C:\...\python.exe -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [switch] $Undo,
    [Parameter(Mandatory = $true)]
    [string] $Python,
    [ValidatePattern('^[0-9]+[KMGT]B$')]
    [string] $Memory = '12GB'
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$path = Join-Path -Path $env:USERPROFILE -ChildPath '.wslconfig'
$arguments = @('-m', 'rfctl.stack.wsl_config', $path, '--memory', $Memory)
if ($Undo) { $arguments += '--undo' }

# What would change is shown in either case; the Python below it is the part that is tested.
& $Python @arguments '--what-if'
if ($LASTEXITCODE -ne 0) { throw "The settings could not be read: $path" }
if ($PSCmdlet.ShouldProcess($path, 'Change the settings of WSL')) {
    & $Python @arguments
    if ($LASTEXITCODE -ne 0) { throw "The settings could not be written: $path" }
    Write-Output 'Apply them when nothing runs in WSL: wsl.exe --shutdown'
}
