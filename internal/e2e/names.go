package e2e

// What the binary under test shows to the outside, in words of their own: a
// test that took them from the program could not see them change.

// Exit statuses, of sysexits(3).
const (
	statusOK       = 0
	statusUsage    = 64
	statusInUse    = 69
	statusProtocol = 70
	statusOS       = 71
	statusNoPerm   = 77
	statusConfig   = 78
)

// commandPath is the PATH of a command.
const commandPath = "/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin"
