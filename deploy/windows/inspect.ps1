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

$identity = [Security.Principal.WindowsIdentity]::GetCurrent()
$principal = New-Object -TypeName Security.Principal.WindowsPrincipal -ArgumentList $identity
$system = Get-CimInstance -ClassName Win32_OperatingSystem
$machine = Get-CimInstance -ClassName Win32_ComputerSystem
$ollama = Join-Path -Path $env:LOCALAPPDATA -ChildPath 'Programs\Ollama\ollama.exe'
$desktop = Join-Path -Path $env:ProgramFiles -ChildPath 'Docker\Docker\Docker Desktop.exe'
$rule = Get-NetFirewallRule -DisplayName 'rfctl Ollama from WSL' -ErrorAction SilentlyContinue
$lan = Get-NetFirewallRule -DisplayName 'rfctl port *' -ErrorAction SilentlyContinue
$task = Get-ScheduledTask -TaskName 'rfctl stack' -ErrorAction SilentlyContinue
# An alias or a link may hide another program behind the name.
$docker = ''
$command = @(Get-Command -Name 'docker' -ErrorAction SilentlyContinue)
if ($command.Count -gt 0) { $docker = $command[0].Definition }
$item = $null
if ($docker) { $item = Get-Item -LiteralPath $docker -ErrorAction SilentlyContinue }
if ($item -and $item.LinkType) { $docker = @($item.Target)[0] }
$facts = [ordered]@{
    system      = $system.Caption
    build       = $system.BuildNumber
    memory      = $machine.TotalPhysicalMemory
    profile     = $env:USERPROFILE
    elevated    = $principal.IsInRole([Security.Principal.WindowsBuiltInRole]::Administrator)
    desktop     = Test-Path -LiteralPath $desktop
    docker      = $docker
    ollama      = (Test-Path -LiteralPath $ollama) -or [bool](Get-Command -Name 'ollama.exe' -ErrorAction SilentlyContinue)
    ollama_host = [Environment]::GetEnvironmentVariable('OLLAMA_HOST', 'User')
    rule        = [bool] $rule
    lan_rule    = [bool] $lan
    autostart   = [bool] $task
}
# ASCII only: what is not comes out right in no code page but one.
$json = $facts | ConvertTo-Json -Compress
[regex]::Replace($json, '[^\x00-\x7F]', { param($match) '\u{0:x4}' -f [int][char]$match.Value })
