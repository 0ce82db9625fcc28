# NOT RUN by the project's tests: nobody has Windows there. Try it on a machine of yours before you rely on it.
#
# Shuts Remote Desktop after a rescue and removes the one-off user named on stdin's first line, with all that is his.
# May run at any time and any number of times: a user who is gone already is fine. Needs what Open-Rdp.ps1 needs.

Set-StrictMode -Version Latest
$ErrorActionPreference = 'Stop'

# From the pipe when Open-Rdp.ps1 calls it, else from stdin.
$userName = @($input) | Select-Object -First 1
if (-not $userName) { $userName = [Console]::In.ReadLine() }
if ($userName -cnotmatch '\Ahelp-[a-z2-9]{10}\z') {
    [Console]::Error.WriteLine('expected a one-off user such as help-x7k2m9q4ta on the first line of stdin')
    exit 2
}

$failed = $false
function Invoke-Step([scriptblock] $Step) {
    # Each step for itself: one that fails must not keep the door open that the next would shut.
    try { & $Step }
    catch {
        [Console]::Error.WriteLine($_.Exception.Message)
        $script:failed = $true
    }
}

Invoke-Step {
    Set-ItemProperty -Path 'HKLM:\SYSTEM\CurrentControlSet\Control\Terminal Server' -Name fDenyTSConnections -Value 1
}
Invoke-Step { Remove-NetFirewallRule -Name 'Portafilter-Rescue' -ErrorAction SilentlyContinue }

$user = Get-LocalUser -Name $userName -ErrorAction SilentlyContinue
if ($user) {
    Invoke-Step { Disable-LocalUser -Name $userName }
    Invoke-Step {
        # quser's columns: name, session, number, state...; without a session name there is one column less.
        foreach ($line in @(quser.exe 2>$null)) {
            if ($line -match ('^[ >]' + [regex]::Escape($userName) + '\s.*?\s(\d+)\s')) { logoff.exe $Matches[1] }
        }
    }
    Invoke-Step {
        Get-CimInstance -ClassName Win32_UserProfile -Filter "SID = '$($user.SID.Value)'" | Remove-CimInstance
    }
    Invoke-Step { Remove-LocalUser -Name $userName }
    if (Get-LocalUser -Name $userName -ErrorAction SilentlyContinue) {
        [Console]::Error.WriteLine("the user $userName is still there")
        $failed = $true
    }
}
if ($failed) { exit 1 }
exit 0
