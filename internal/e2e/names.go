package e2e

// These values are repeated here and not taken from the program, so that a test
// notices if they change there.

// Exit statuses, see sysexits(3).
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
