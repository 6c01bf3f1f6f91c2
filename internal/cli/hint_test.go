package cli

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// TestHint checks the hint for each cause of an error of package sock.
func TestHint(t *testing.T) {
	us := perms.UserName(os.Geteuid())
	find := func(what, freebsd, linux string) string {
		how := map[string]string{"freebsd": freebsd, "linux": linux}[runtime.GOOS]
		if how == "" {
			return ""
		}
		return " (to find " + what + ": " + how + ")"
	}
	want := map[sock.Cause]string{
		sock.Other:        "",
		sock.NoDir:        " (to fix: install -d -o " + us + " -m 0750 /a/b)",
		sock.DirOwner:     " (to fix: chown " + us + " /a/b)",
		sock.ParentOwner:  " (to fix: put the socket elsewhere, or chown " + us + " /a/b)",
		sock.DirWritable:  " (to fix: chmod g-w /a/b)",
		sock.ForeignLink:  " (to fix: remove it)",
		sock.BadLock:      " (to fix: remove it)",
		sock.LockHeld:     find("it", "fstat /a/b", "fuser /a/b"),
		sock.Taken:        find("it", "sockstat -l", "ss -lnp"),
		sock.NoAnswer:     " (to fix: stop that server, or remove the file)",
		sock.NotRemovable: " (to fix: remove it)",
		sock.CannotChown:  " (to fix: do not use -socket-owner, or start onewake as that user)",
		sock.CannotChgrp:  " (to fix: add the user to the group, or make it the group of the directory)",
		sock.NoInterface:  find("the names", "ifconfig -l", "ip link"),
		sock.NoLocal:      find("its addresses", "ifconfig", "ip address"),
	}
	for cause := sock.Other; cause <= sock.NoLocal; cause++ {
		err := fmt.Errorf("listen: %w", &sock.Error{Cause: cause, Path: "/a/b", Mode: 0o020})
		if w, ok := want[cause]; !ok || hint(err) != w {
			t.Errorf("cause %d: %q, want %q", cause, hint(err), w)
		}
	}
	for mode, who := range map[os.FileMode]string{0o020: "g", 0o002: "o", 0o022: "go"} {
		if got := hint(&sock.Error{Cause: sock.DirWritable, Path: "/a", Mode: mode}); got != " (to fix: chmod "+who+"-w /a)" {
			t.Errorf("mode %04o: %q", mode, got)
		}
	}
	if got := hint(errors.New("x")) + hint(nil); got != "" {
		t.Errorf("hint for another error: %q", got)
	}
}

// TestHintForListen checks the hints for real errors of sock.Listen.
func TestHintForListen(t *testing.T) {
	dir := looptest.Dir(t)
	_, err := sock.Listen(t.Context(), sock.Addr{Network: sock.Unix, Address: dir + "/no/s"}, perms.Spec{})
	want := "listen unix:" + dir + "/no/s: " + dir + "/no: no such file or directory (to fix: install -d -o " +
		perms.UserName(os.Geteuid()) + " -m 0750 " + dir + "/no)"
	if err == nil || err.Error()+hint(err) != want || ExitStatus(err) != StatusConfig {
		t.Errorf("got  %v%s\nwant %s", err, hint(err), want)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	_, err = sock.Listen(t.Context(), sock.Addr{Network: sock.Unix, Address: dir + "/s"}, perms.Spec{})
	if !strings.HasSuffix(hint(err), "(to fix: chmod go-w "+dir+")") || ExitStatus(err) != StatusConfig {
		t.Errorf("%v%s", err, hint(err))
	}
}
