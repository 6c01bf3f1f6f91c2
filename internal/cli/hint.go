package cli

import (
	"errors"
	"os"
	"runtime"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// hint says what would mend an error of package sock, or find out more, as a
// command where there is one. It follows the text of the error, which has the
// names.
func hint(err error) string {
	var e *sock.Error
	if !errors.As(err, &e) {
		return ""
	}
	us := perms.UserName(os.Geteuid())
	mend := func(how string) string { return " (to mend: " + how + ")" }
	find := func(what, freebsd, linux string) string {
		how, ok := map[string]string{"freebsd": freebsd, "linux": linux}[runtime.GOOS]
		if !ok {
			return ""
		}
		return " (to find " + what + ": " + how + ")"
	}
	switch e.Cause {
	case sock.NoDir:
		return mend("install -d -o " + us + " -m 0750 " + e.Path)
	case sock.DirOwner:
		return mend("chown " + us + " " + e.Path)
	case sock.ParentOwner:
		// A whole tree may depend on whose it is.
		return mend("put the socket elsewhere, or chown " + us + " " + e.Path)
	case sock.DirWritable:
		who := map[os.FileMode]string{0o020: "g", 0o002: "o", 0o022: "go"}[e.Mode]
		return mend("chmod " + who + "-w " + e.Path)
	case sock.ForeignLink, sock.BadLock, sock.NotRemovable:
		return mend("remove it")
	case sock.NoAnswer:
		return mend("stop that server, remove the file")
	case sock.CannotChown:
		return mend("leave the owner out, or start it as that user")
	case sock.CannotChgrp:
		return mend("add the user to the group, or give it the directory")
	case sock.LockHeld:
		return find("it", "fstat "+e.Path, "fuser "+e.Path)
	case sock.Taken:
		return find("it", "sockstat -l", "ss -lnp")
	case sock.NoInterface:
		return find("the names", "ifconfig -l", "ip link")
	case sock.NoLocal:
		return find("its addresses", "ifconfig", "ip address")
	}
	return ""
}
