#Requires -Version 5.1
<#
.SYNOPSIS
Prints what rfctl has to know about this Windows as one line of JSON. Changes nothing.
.EXAMPLE
.\inspect.ps1
#>
[CmdletBinding()]
param()
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$identity = [Security.Principal.WindowsPrincipal][Security.Principal.WindowsIdentity]::GetCurrent()
$system = Get-CimInstance -ClassName Win32_OperatingSystem
$machine = Get-CimInstance -ClassName Win32_ComputerSystem
$ollama = Join-Path -Path $env:LOCALAPPDATA -ChildPath 'Programs\Ollama\ollama.exe'
$desktop = Join-Path -Path $env:ProgramFiles -ChildPath 'Docker\Docker\Docker Desktop.exe'
$rule = Get-NetFirewallRule -DisplayName 'rfctl Ollama from WSL' -ErrorAction SilentlyContinue
$lan = Get-NetFirewallRule -DisplayName 'rfctl port *' -ErrorAction SilentlyContinue
$task = Get-ScheduledTask -TaskName 'rfctl stack' -ErrorAction SilentlyContinue
$facts = [ordered]@{
    system      = $system.Caption
    build       = $system.BuildNumber
    memory      = $machine.TotalPhysicalMemory
    profile     = $env:USERPROFILE
    elevated    = $identity.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
    desktop     = Test-Path -LiteralPath $desktop
    ollama      = (Test-Path -LiteralPath $ollama) -or [bool](Get-Command -Name 'ollama.exe' -ErrorAction SilentlyContinue)
    ollama_host = [Environment]::GetEnvironmentVariable('OLLAMA_HOST', 'User')
    rule        = [bool] $rule
    lan_rule    = [bool] $lan
    autostart   = [bool] $task
}
$facts | ConvertTo-Json -Compress
