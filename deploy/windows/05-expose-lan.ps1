#Requires -Version 5.1
<#
.SYNOPSIS
Lets the private network reach one port of the stack. Needs an administrator. Use it with TLS only.
.DESCRIPTION
-Way Desktop: a firewall rule (Docker Desktop listens on Windows itself).
-Way Nat: a port proxy to the distribution and a firewall rule; the address of WSL changes with every start, so
run it again after a restart (06-autostart.ps1 cannot: it has no administrator).
-Way Mirrored: a rule of the Hyper-V firewall for WSL.
.EXAMPLE
.\05-expose-lan.ps1 -Way Nat -Port 443 -WhatIf
.EXAMPLE
.\05-expose-lan.ps1 -Way Nat -Port 443 -Undo
#>
[CmdletBinding(SupportsShouldProcess = $true)]
param(
    [switch] $Undo,
    [Parameter(Mandatory = $true)]
    [ValidateSet('Desktop', 'Nat', 'Mirrored')]
    [string] $Way,
    [Parameter(Mandatory = $true)]
    [ValidateRange(1, 65535)]
    [int] $Port,
    [ValidatePattern('^[A-Za-z0-9._-]+$')]
    [string] $Distribution = 'Ubuntu'
)
Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'
. (Join-Path -Path $PSScriptRoot -ChildPath 'common.ps1')
$env:WSL_UTF8 = '1'

$name = "rfctl port $Port"
if ($Way -eq 'Mirrored') {
    if (-not (Get-Command -Name 'Get-NetFirewallHyperVRule' -ErrorAction SilentlyContinue)) {
        throw 'This Windows has no Hyper-V firewall for WSL (it came with Windows 11 22H2).'
    }
    # The id is the one of WSL (Microsoft's WSL documentation, networking).
    $creator = '{40E0AC32-46A5-438A-A0B2-2B479E8F2E90}'
    $rule = Get-NetFirewallHyperVRule -Name "rfctl-$Port" -ErrorAction SilentlyContinue
    if ($Undo) {
        if ($rule -and $PSCmdlet.ShouldProcess($name, 'Remove the rule of the Hyper-V firewall')) {
            Assert-Administrator
            Remove-NetFirewallHyperVRule -Name "rfctl-$Port"
        }
    } elseif (-not $rule -and $PSCmdlet.ShouldProcess($name, 'Add a rule of the Hyper-V firewall')) {
        Assert-Administrator
        $values = @{
            Name        = "rfctl-$Port"
            DisplayName = $name
            Direction   = 'Inbound'
            VMCreatorId = $creator
            Protocol    = 'TCP'
            LocalPorts  = $Port
        }
        New-NetFirewallHyperVRule @values | Out-Null
    }
    return
}

$rule = Get-NetFirewallRule -DisplayName $name -ErrorAction SilentlyContinue
if ($Undo) {
    if ($rule -and $PSCmdlet.ShouldProcess($name, 'Remove the firewall rule')) {
        Assert-Administrator
        Remove-NetFirewallRule -DisplayName $name
    }
    if ($Way -eq 'Nat' -and $PSCmdlet.ShouldProcess("0.0.0.0:$Port", 'Remove the port proxy')) {
        Assert-Administrator
        & netsh.exe interface portproxy delete v4tov4 listenaddress=0.0.0.0 listenport=$Port
        if ($LASTEXITCODE -ne 0) { Write-Output 'There was no port proxy.' }
    }
    return
}
if ($Way -eq 'Nat') {
    $addresses = & wsl.exe -d $Distribution --exec hostname -I
    if ($LASTEXITCODE -ne 0) { throw "wsl.exe ended with $LASTEXITCODE" }
    $address = ("$addresses".Trim() -split '\s+')[0]
    if ($address -notmatch '^[0-9]+(\.[0-9]+){3}$') { throw "This is no address: $address" }
    if ($PSCmdlet.ShouldProcess("0.0.0.0:$Port", "Add a port proxy to $address")) {
        Assert-Administrator
        & netsh.exe interface portproxy add v4tov4 listenaddress=0.0.0.0 listenport=$Port connectaddress=$address connectport=$Port
        if ($LASTEXITCODE -ne 0) { throw "netsh.exe ended with $LASTEXITCODE" }
    }
}
if (-not $rule -and $PSCmdlet.ShouldProcess($name, 'Add a firewall rule for the private network')) {
    Assert-Administrator
    $values = @{
        DisplayName = $name
        Direction   = 'Inbound'
        Action      = 'Allow'
        Protocol    = 'TCP'
        LocalPort   = $Port
        Profile     = 'Private'
    }
    New-NetFirewallRule @values | Out-Null
}
$public = @(Get-NetConnectionProfile -ErrorAction SilentlyContinue | Where-Object { $_.NetworkCategory -eq 'Public' })
if ($public.Count -gt 0) {
    Write-Warning "Windows takes this network for a public one, where the rule does not hold: $($public[0].Name). Change it in Settings, Network and internet, Properties."
}
