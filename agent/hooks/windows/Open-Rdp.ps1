# NOT RUN by the project's tests: nobody has Windows there. Try it on a machine of yours before you rely on it.
#
# Lets support in over Remote Desktop for one rescue: makes the one-off local user of stdin's first line with the
# password of its second, lets it log in remotely, and opens the firewall to the gateways' network alone.
#
# Windows 10/11 Pro or Server, PowerShell 5.1, as Administrator or SYSTEM. Ends with 0 when that user can log in.
# RDP_GATEWAYS in the agent's environment: the gateways' addresses in the VPN, as in 10.77.0.0/24. There is no default:
# a rule for everybody would be a desktop for everybody.

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

$userName = [Console]::In.ReadLine()
$password = [Console]::In.ReadLine()
# -cnotmatch and \z: case counts, and nothing may follow, not even the end of a line.
if ($userName -cnotmatch '\Ahelp-[a-z2-9]{10}\z') {
    [Console]::Error.WriteLine('expected a one-off user such as help-x7k2m9q4ta on the first line of stdin')
    exit 2
}
if ($password -cnotmatch '\A[A-Za-z0-9]{12,127}\z') {
    [Console]::Error.WriteLine('expected a password of letters and digits on the second line of stdin')
    exit 2
}
$gateways = $env:RDP_GATEWAYS
if ($gateways -cnotmatch '\A[0-9.]{7,15}(/[0-9]{1,2})?\z') {
    [Console]::Error.WriteLine('RDP_GATEWAYS is missing: expected the network of the gateways, such as 10.77.0.0/24')
    exit 2
}

try {
    $secret = ConvertTo-SecureString -String $password -AsPlainText -Force
    New-LocalUser -Name $userName -Password $secret -Description 'Support, for one rescue' `
        -AccountNeverExpires -PasswordNeverExpires -UserMayNotChangePassword | Out-Null
    # By their well-known identifiers: the groups' names are translated.
    Add-LocalGroupMember -SID 'S-1-5-32-555' -Member $userName

    $server = 'HKLM:\SYSTEM\CurrentControlSet\Control\Terminal Server'
    Set-ItemProperty -Path "$server\WinStations\RDP-Tcp" -Name UserAuthentication -Value 1  # network level only
    # Windows' own rules for Remote Desktop let everybody in: ours alone is on while the rescue lasts.
    Get-NetFirewallRule -Group '@FirewallAPI.dll,-28752' -ErrorAction SilentlyContinue | Disable-NetFirewallRule
    Remove-NetFirewallRule -Name 'Portafilter-Rescue' -ErrorAction SilentlyContinue
    New-NetFirewallRule -Name 'Portafilter-Rescue' -DisplayName 'Portafilter: support, for one rescue' `
        -Direction Inbound -Action Allow -Protocol TCP -LocalPort 3389 -RemoteAddress $gateways | Out-Null
    Set-ItemProperty -Path $server -Name fDenyTSConnections -Value 0
    Start-Service -Name TermService

    $deadline = (Get-Date).AddSeconds(20)
    while (-not (Get-NetTCPConnection -LocalPort 3389 -State Listen -ErrorAction SilentlyContinue)) {
        if ((Get-Date) -gt $deadline) { throw 'Remote Desktop does not listen on port 3389' }
        Start-Sleep -Milliseconds 200
    }
}
catch {
    # The error is of our own calls; the password is in none of their messages.
    [Console]::Error.WriteLine($_.Exception.Message)
    $userName | & "$PSScriptRoot\Close-Rdp.ps1"
    exit 1
}
exit 0
