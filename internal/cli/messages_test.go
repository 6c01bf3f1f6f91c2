//go:build freebsd || linux

package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hashicorp/go-multierror"

	"github.com/onewake/onewake/internal/looptest"
	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
)

// These tests check error messages and exit statuses without starting a service.
// Package e2e checks that the binary prints them.

// envCases is the environment variable for the directory that TestMessagesNobody
// prepares for its second run. Case N uses subdirectory N.
const envCases = "ONEWAKE_TEST_CASES"

// toFind is the hint for an address that is in use.
var toFind = map[string]string{"freebsd": " (to find it: sockstat -l)", "linux": " (to find it: ss -lnp)"}[runtime.GOOS]

// A mistake is a wrong command line and the expected error messages of a start and
// of -check. $D stands for a directory of the test, $U for the name of the user.
type mistake struct {
	name    string
	setup   func(t *testing.T, dir string) // prepares $D
	args    []string
	stderr  []string // lines without "onewake: "
	status  int
	path    string // PATH of the test
	listens bool   // args include -listen; otherwise the test adds a valid one
	binds   bool   // the error comes from bind(2), so -check does not find it
}

// file creates a file in $D.
func file(name, text string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode) // ignores the umask
	}
}

func mkdir(name string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode)
	}
}

func serveAt(name string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		ln, err := net.Listen("unix", filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		os.Chmod(filepath.Join(dir, name), mode)
		t.Cleanup(func() { ln.Close() })
	}
}

// shPath is the path of sh(1), for example /sbin/sh if /sbin is a link to /bin.
func shPath() string {
	for _, dir := range filepath.SplitList(commandPath) {
		if fi, err := os.Stat(dir + "/sh"); err == nil && fi.Mode().IsRegular() {
			return dir + "/sh"
		}
	}
	return ""
}

var flagMistakes = []mistake{
	{name: "unknown", args: []string{"-bogus"}, status: 64, stderr: []string{"-bogus: no such flag"}},
	{name: "misspelt", args: []string{"-max-proc", "3"}, status: 64, stderr: []string{"-max-proc: no such flag, did you mean -max-procs?"}},
	{name: "misspelt with =", args: []string{"--sokcet-mode=0666"}, status: 64, stderr: []string{"-sokcet-mode: no such flag, did you mean -socket-mode?"}},
	{name: "invalid flag", args: []string{"-timeout", "1s", "---x"}, status: 64, stderr: []string{`"---x": not a flag`}},
	{name: "no value", args: []string{"-cgi", "-timeout"}, status: 64, stderr: []string{"-timeout: no value, use -timeout TIME"}},
	{name: "not boolean", args: []string{"-access-log=off"}, status: 64,
		stderr: []string{`-access-log "off": not a boolean, use -access-log=true or -access-log=false`}},
}

var mistakes = []mistake{
	{name: "no unit", args: []string{"-timeout", "5"}, status: 64, stderr: []string{`-timeout "5": no unit, use for example 5s`}},
	{name: "duration", args: []string{"-drain", "0"}, status: 64, stderr: []string{`-drain "0": not a duration above 0 and up to 8760h, such as 90s or 2m30s`}},
	{name: "negative", args: []string{"-kill-after=-1"}, status: 64, stderr: []string{`-kill-after "-1": not a duration above 0 and up to 8760h, such as 90s or 2m30s`}},
	{name: "number", args: []string{"-max-procs", "0"}, status: 64, stderr: []string{`-max-procs "0": not a number from 1 to 1073741824`}},
	{name: "connections", args: []string{"-max-conns", "many"}, status: 64, stderr: []string{`-max-conns "many": not a number from 1 to 1073741824`}},
	{name: "queue", args: []string{"-max-queue", "-1"}, status: 64, stderr: []string{`-max-queue "-1": not a number from 0 to 1073741824`}},
	{name: "size", args: []string{"-max-body", "16MB"}, status: 64, stderr: []string{`-max-body "16MB": not a size above 0, such as 65536, 512KiB or 16MiB`}},
	{name: "mode", args: []string{"-socket-mode", "660x"}, status: 64, stderr: []string{`-socket-mode "660x": not an octal mode from 0 to 0777, such as 0660`}},
	{name: "not octal", args: []string{"-socket-mode", "0888"}, status: 64, stderr: []string{`-socket-mode "0888": not an octal mode from 0 to 0777, such as 0660`}},
	{name: "sandbox", args: []string{"-sandbox", "no"}, status: 64, stderr: []string{`-sandbox "no": unknown value, use on or off`}},
	{name: "log format", args: []string{"-log-format", "xml"}, status: 64, stderr: []string{`-log-format "xml": unknown value, use text or json`}},
	{name: "owner", args: []string{"-socket-owner", "no-such"}, status: 78, stderr: []string{`-socket-owner "no-such": no such user (to list users: getent passwd)`}},
	{name: "group", args: []string{"-socket-group", "no-such"}, status: 78, stderr: []string{`-socket-group "no-such": no such group (to list groups: getent group)`}},
	{name: "allow", args: []string{"-allow", "root :wheel,:no-such,,staff"}, status: 78, stderr: []string{
		`-allow "root :wheel,:no-such,,staff": "root :wheel": no such user, separate names by commas and write a group as :GROUP (to list users: getent passwd)`,
		`-allow "root :wheel,:no-such,,staff": ":no-such": no such group (to list groups: getent group)`,
		`-allow "root :wheel,:no-such,,staff": "": empty name, use USER or :GROUP separated by commas, or do not use -allow`,
		`-allow "root :wheel,:no-such,,staff": "staff": a group, not a user, use :staff`}},
	{name: "type", args: []string{"-content-type", "text/html\nX: y"}, status: 64, stderr: []string{`-content-type "text/html\nX: y": not a media type, such as text/html`}},
	{name: "half a type", args: []string{"-content-type", "html"}, status: 64, stderr: []string{`-content-type "html": not a media type, such as text/html`}},
	{name: "variable without a name", args: []string{"-env", "=x"}, status: 64, stderr: []string{`-env "=x": no name, use NAME=VALUE, or NAME to copy the value`}},
	{name: "variable set by requests", args: []string{"-env", "PATH_INFO=x"}, status: 64, stderr: []string{`-env "PATH_INFO=x": PATH_INFO is set by requests, use another name`}},
	{name: "variable to copy", args: []string{"-env", "NO_SUCH"}, status: 78, stderr: []string{`-env "NO_SUCH": not in the environment of onewake, use NO_SUCH=VALUE`}},
	{name: "forwarded", args: []string{"-forwarded", "X-Real-IP,X-Forwarded-Fro"}, status: 64,
		stderr: []string{`-forwarded "X-Real-IP,X-Forwarded-Fro": "X-Forwarded-Fro" is not one of X-Real-IP, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id, X-Remote-User`}},
	{name: "script name", args: []string{"-script-name", "app/"}, status: 64, stderr: []string{`-script-name "app/": not a path such as /cgi-bin/foo, which has no ? or # and does not end in a slash`}},
	{name: "relative directory", args: []string{"-dir", "x/y"}, status: 64, stderr: []string{`-dir "x/y": not an absolute path, use /x/y`}},
	{name: "empty directory", args: []string{"-spool-dir", ""}, status: 64, stderr: []string{`-spool-dir "": not an absolute path, use /var/tmp`}},
	{name: "missing directory", args: []string{"-dir", "$D/x"}, status: 78, stderr: []string{`-dir "$D/x": no such file or directory (to fix: install -d -o $U $D/x)`}},
	{name: "not a directory", setup: file("x", "", 0o644), args: []string{"-spool-dir", "$D/x"}, status: 78, stderr: []string{`-spool-dir "$D/x": not a directory, use $D`}},

	{name: "no command", args: []string{"-cgi"}, status: 64, stderr: []string{"-cgi: no command, add one after the flags"}},
	{name: "empty command", args: []string{""}, status: 78, stderr: []string{`command "": empty, use the path of a program, or no argument for the test page`}},
	{name: "unknown command", args: []string{"no-such"}, status: 78,
		stderr: []string{`command "no-such": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, use its absolute path`}},
	{name: "command in another PATH", path: "$D", setup: file("no-such", "#!/bin/sh\n", 0o755), args: []string{"no-such"}, status: 78,
		stderr: []string{`command "no-such": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, use its absolute path`}},
	{name: "missing command", args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": no such file or directory`}},
	{name: "missing relative command", args: []string{"./no-such/x"}, status: 78, stderr: []string{`command "./no-such/x": /no-such/x: no such file or directory`}},
	{name: "not executable", setup: file("x", "#!/bin/sh\n", 0o644), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": not executable for user $U (to fix: chmod a+x $D/x)`}},
	{name: "directory for a command", args: []string{"$D"}, status: 78, stderr: []string{`command "$D": a directory, use the path of a program`}},
	{name: "socket for a command", setup: serveAt("x", 0o777), args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": not a regular file, use the path of a program`}},
	{name: "empty file", setup: file("x", "", 0o755), args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": neither a binary nor a script that begins with #! (to fix: make #!/bin/sh or another interpreter its first line)`}},
	{name: "no #!", setup: file("x", "echo hello\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": neither a binary nor a script that begins with #! (to fix: make #!/bin/sh or another interpreter its first line)`}},
	{name: "byte order mark", setup: file("x", "\ufeff#!/bin/sh\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": neither a binary nor a script that begins with #! (to fix: make #!/bin/sh or another interpreter its first line)`}},
	{name: "no interpreter", setup: file("x", "#! \n", 0o755), args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": no interpreter after #!, use for example #!/bin/sh`}},
	{name: "missing interpreter", setup: file("x", "#!/no-such/pythno -u\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": interpreter "/no-such/pythno": no such file or directory`}},
	{name: "interpreter elsewhere", setup: file("x", "#!\t/no-such/sh\t-e\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": interpreter "/no-such/sh": no such file or directory`}},
	{name: "line end of DOS", setup: file("x", "#!/bin/sh\r\necho\r\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": interpreter "/bin/sh\r": no such file or directory`}},

	{name: "no network", listens: true, args: []string{"-listen", "8080"}, status: 64,
		stderr: []string{`-listen "8080": neither unix:/path, tcp4:host:port, tcp6:[host]:port nor fd:number`}},
	{name: "path without a network", listens: true, args: []string{"-listen", "/run/x"}, status: 64, stderr: []string{`-listen "/run/x": a path needs its network, use unix:/run/x`}},
	{name: "host without a network", listens: true, args: []string{"-listen", "tcp:[::1]:80"}, status: 64,
		stderr: []string{`-listen "tcp:[::1]:80": a host and a port need their network, use tcp6:[::1]:80`}},
	{name: "relative path", listens: true, args: []string{"-listen", "unix:s"}, status: 64, stderr: []string{`-listen "unix:s": a relative path, use unix:/path`}},
	{name: "abstract socket", listens: true, args: []string{"-listen", "@s"}, status: 64, stderr: []string{`-listen "@s": abstract sockets have no permissions, use unix:/path`}},
	{name: "directory for a path", listens: true, args: []string{"-listen", "unix:/run/"}, status: 64, stderr: []string{`-listen "unix:/run/": names a directory, use unix:/run/NAME`}},
	{name: "path in a long form", listens: true, args: []string{"-listen", "unix:///run/x"}, status: 64, stderr: []string{`-listen "unix:///run/x": not in its shortest form, use unix:/run/x`}},
	{name: "path with ..", listens: true, args: []string{"-listen", "unix:/a/../b"}, status: 64, stderr: []string{`-listen "unix:/a/../b": a path with .., use one without`}},
	{name: "long path", listens: true, args: []string{"-listen", "unix:/" + strings.Repeat("x", 107)}, status: 64,
		stderr: []string{`-listen "unix:/` + strings.Repeat("x", 107) + fmt.Sprintf(`": a path of 108 bytes, this system takes %d: use a shorter one`, len(unix.RawSockaddrUnix{}.Path)-1)}},
	{name: "no host", listens: true, args: []string{"-listen", "tcp4::80"}, status: 64, stderr: []string{`-listen "tcp4::80": no host, use tcp4:0.0.0.0:80 for every IPv4 address`}},
	{name: "port by name", listens: true, args: []string{"-listen", "tcp4:127.0.0.1:http"}, status: 64, stderr: []string{`-listen "tcp4:127.0.0.1:http": port "http" is not a number from 0 to 65535`}},
	{name: "no brackets", listens: true, args: []string{"-listen", "tcp6:::1:80"}, status: 64, stderr: []string{`-listen "tcp6:::1:80": an IPv6 address needs brackets and a port, use tcp6:[::1]:8080`}},
	{name: "other family", listens: true, args: []string{"-listen", "tcp6:127.0.0.1:80"}, status: 64, stderr: []string{`-listen "tcp6:127.0.0.1:80": not an IPv6 address, use tcp4:127.0.0.1:80`}},
	{name: "no zone", listens: true, args: []string{"-listen", "tcp6:[fe80::1]:80"}, status: 64,
		stderr: []string{`-listen "tcp6:[fe80::1]:80": a link-local address needs its interface, use tcp6:[fe80::1%em0]:80 or such`}},
	{name: "output", listens: true, args: []string{"-listen", "fd:1"}, status: 64, stderr: []string{`-listen "fd:1": descriptors 1 and 2 are for output, use fd:0, fd:3 or such`}},
	{name: "twice", listens: true, args: []string{"-listen", "unix:$D/s", "-listen", "unix:$D/s"}, status: 64, stderr: []string{`-listen "unix:$D/s": given twice`}},

	{name: "closed descriptor", listens: true, args: []string{"-listen", "fd:9999"}, status: 64,
		stderr: []string{"listen fd:9999: descriptor 9999: not open, the parent process must pass a listening socket there"}},
	{name: "foreign address", listens: true, binds: true, args: []string{"-listen", "tcp4:192.0.2.1:8080"}, status: 64,
		stderr: []string{"listen tcp4:192.0.2.1:8080: bind: " + syscall.EADDRNOTAVAIL.Error() + ": no interface of this machine has the address (to find its addresses: " +
			map[string]string{"freebsd": "ifconfig", "linux": "ip address"}[runtime.GOOS] + ")"}},
	{name: "no such interface", listens: true, args: []string{"-listen", "tcp6:[fe80::1%no-such]:80"}, status: 64,
		stderr: []string{`listen tcp6:[fe80::1%no-such]:80: no interface is called "no-such" (to find the names: ` +
			map[string]string{"freebsd": "ifconfig -l", "linux": "ip link"}[runtime.GOOS] + ")"}},

	{name: "no directory of the socket", listens: true, args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: no such file or directory (to fix: install -d -o $U -m 0750 $D/x)"}},
	{name: "file for a directory", listens: true, setup: file("x", "", 0o644), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: not a directory, use a path in one"}},
	{name: "open to the group", listens: true, setup: mkdir("x", 0o770), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: writable by its group (to fix: chmod g-w $D/x)"}},
	{name: "open to all", listens: true, setup: mkdir("x", 0o777), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: writable by its group and others (to fix: chmod go-w $D/x)"}},
	{name: "open to others", listens: true, setup: mkdir("x", 0o757), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: writable by others (to fix: chmod o-w $D/x)"}},
	{name: "a file", setup: file("s", "", 0o644), status: 78, stderr: []string{"listen unix:$D/s: $D/s: not a socket but a regular file, move it away or use another path"}},
	{name: "a directory", setup: mkdir("s", 0o755), status: 78, stderr: []string{"listen unix:$D/s: $D/s: not a socket but a directory, move it away or use another path"}},
	{name: "a link", setup: func(t *testing.T, dir string) { os.Symlink(os.DevNull, dir+"/s") }, status: 78,
		stderr: []string{"listen unix:$D/s: $D/s: not a socket but a symbolic link, move it away or use another path"}},
	{name: "a link to nothing", setup: func(t *testing.T, dir string) { os.Symlink("no-such", dir+"/s") }, status: 78,
		stderr: []string{"listen unix:$D/s: $D/s: not a socket but a symbolic link, move it away or use another path"}},
	{name: "a pipe", setup: func(t *testing.T, dir string) { unix.Mkfifo(dir+"/s", 0o644) }, status: 78,
		stderr: []string{"listen unix:$D/s: $D/s: not a socket but a named pipe, move it away or use another path"}},
	{name: "another server", setup: serveAt("s", 0o666), status: 69, stderr: []string{"listen unix:$D/s: address already in use: another server answers" + toFind}},
	{name: "lock of a link", setup: func(t *testing.T, dir string) { os.Symlink("x", dir+"/.s.lock") }, status: 78,
		stderr: []string{"listen unix:$D/s: $D/.s.lock: not a regular file (to fix: remove it)"}},
	{name: "lock with two names", setup: func(t *testing.T, dir string) {
		os.Chmod(dir, 0o777|os.ModeSticky)
		file("x", "", 0o600)(t, dir)
		os.Link(dir+"/x", dir+"/.s.lock")
	}, status: 78, stderr: []string{"listen unix:$D/s: $D/.s.lock: has 2 hard links instead of one (to fix: remove it)"}},

	{name: "all at once", args: []string{"-timeout", "5", "-dir", "$D/x", "$D/y"}, status: 64, stderr: []string{
		`-dir "$D/x": no such file or directory (to fix: install -d -o $U $D/x)`, `-timeout "5": no unit, use for example 5s`, `command "$D/y": no such file or directory`}},
}

// nobodysMistakes must be run as an ordinary user but set up by root.
var nobodysMistakes = []mistake{
	{name: "closed directory", setup: mkdir("x", 0o700), args: []string{"-dir", "$D/x"}, status: 77, stderr: []string{`-dir "$D/x": permission denied: user $U cannot enter it`}},
	{name: "directory in a closed one", setup: mkdir("x", 0o700), args: []string{"-dir", "$D/x/y"}, status: 77, stderr: []string{`-dir "$D/x/y": permission denied: user $U cannot enter it`}},
	{name: "directory to read", setup: mkdir("x", 0o755), args: []string{"-spool-dir", "$D/x"}, status: 77,
		stderr: []string{`-spool-dir "$D/x": permission denied: user $U cannot create files there, use another directory such as /var/tmp`}},
	{name: "command in a closed directory", setup: mkdir("x", 0o700), args: []string{"$D/x/y"}, status: 78,
		stderr: []string{`command "$D/x/y": permission denied: user $U cannot enter its directory`}},
	{name: "somebody else's directory", listens: true, args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		setup: func(t *testing.T, dir string) {
			mkdir("x", 0o777|os.ModeSticky)(t, dir)
			os.Chown(dir+"/x", 4000000000, -1)
		}, stderr: []string{"listen unix:$D/x/s: $D/x: owned by user 4000000000, neither by $U nor by root (to fix: chown $U $D/x)"}},
	{name: "directory of root's", listens: true, setup: mkdir("x", 0o755), args: []string{"-listen", "unix:$D/x/s"}, status: 77,
		stderr: []string{"listen unix:$D/x/s: $D/x: permission denied: user $U cannot create a socket there, use a directory of its own"}},
	{name: "closed directory of root's", listens: true, setup: mkdir("x", 0o700), args: []string{"-listen", "unix:$D/x/s"}, status: 77,
		stderr: []string{"listen unix:$D/x/s: $D/x: permission denied: user $U cannot read it, use a directory of its own"}},
	{name: "a closed server", setup: serveAt("s", 0o600), status: 77,
		stderr: []string{"listen unix:$D/s: $D/s: connect: permission denied: a socket of user root, whose server may be running (to fix: stop that server, or remove the file)"}},
	{name: "owner by another than root", args: []string{"-socket-owner", "root"}, status: 77,
		stderr: []string{"listen unix:$D/s: owner root: only root can set another owner, and this is user $U (to fix: do not use -socket-owner, or start onewake as that user)"}},
	{name: "group of others", args: []string{"-socket-group", "4000000000"}, status: 77,
		stderr: []string{"listen unix:$D/s: group 4000000000: user $U is not a member, and $D has another group (to fix: add the user to the group, or make it the group of the directory)"}},
	{name: "lock of root's", setup: file(".s.lock", "", 0o600), status: 78,
		stderr: []string{"listen unix:$D/s: $D/.s.lock: owned by user root, not by $U (to fix: remove it)"}},
	{name: "low port", listens: true, binds: true, args: []string{"-listen", "tcp4:127.0.0.1:1"}, status: 77,
		stderr: []string{"listen tcp4:127.0.0.1:1: bind: permission denied: only root can bind a port below 1024, use a higher one"}},
}

func TestMessages(t *testing.T) {
	t.Chdir("/")
	for _, m := range flagMistakes {
		t.Run(m.name, func(t *testing.T) { m.test(t, newDir(t), "onewake -h lists the flags\n") })
	}
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) { m.test(t, newDir(t), "") })
	}
	t.Run("another user's directory", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs root to change the owner of a directory")
		}
		mistake{listens: true, args: []string{"-listen", "unix:$D/x/s"}, status: 78,
			setup: func(t *testing.T, dir string) {
				mkdir("x", 0o755)(t, dir)
				os.Chown(dir+"/x", 4000000000, -1)
			}, stderr: []string{"listen unix:$D/x/s: $D/x: owned by user 4000000000, not by root (to fix: chown root $D/x)"},
		}.test(t, newDir(t), "")
	})
}

// TestMessagesNobody runs itself again as user nobody. An ordinary user runs only
// the cases that need no setup.
func TestMessagesNobody(t *testing.T) {
	base := os.Getenv(envCases)
	if base != "" || os.Geteuid() != 0 {
		t.Chdir("/")
		for i, m := range nobodysMistakes {
			t.Run(m.name, func(t *testing.T) {
				dir := filepath.Join(base, strconv.Itoa(i))
				switch {
				case m.name == "low port" && !lowPortsNeedRoot():
					t.Skip("any user can bind low ports here")
				case base == "" && m.setup != nil:
					t.Skip("needs root to create files of other users")
				case base == "":
					dir = newDir(t)
				}
				m.setup = nil
				m.test(t, dir, "")
			})
		}
		return
	}
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	uid, _ := strconv.Atoi(u.Uid)
	gid, _ := strconv.Atoi(u.Gid)
	base = newDir(t)
	for i, m := range nobodysMistakes {
		mkdir(strconv.Itoa(i), 0o755)(t, base)
		dir := filepath.Join(base, strconv.Itoa(i))
		if err := os.Chown(dir, uid, gid); err != nil {
			t.Fatal(err)
		}
		if m.setup != nil {
			m.setup(t, dir)
		}
	}
	// Only root can execute the original.
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	file("self", string(program), 0o755)(t, base)
	cmd := exec.Command(base+"/self", "-test.run=^(TestMessagesNobody|TestNotes)$", "-test.v")
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), envCases+"="+base)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}
	out, err := cmd.CombinedOutput()
	n := strings.Count(string(out), "    --- PASS") + strings.Count(string(out), "    --- SKIP")
	if err != nil || n != len(nobodysMistakes) || !strings.Contains(string(out), "--- PASS: TestNotes") {
		t.Errorf("%d of %d passed, %v\n%s", n, len(nobodysMistakes), err, out)
	}
}

// lowPortsNeedRoot reports whether only root can bind ports below 1024. On Linux
// this is configurable.
func lowPortsNeedRoot() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	return err != nil || string(b) == "1024\n"
}

// newDir makes a temporary directory that all users can enter.
func newDir(t *testing.T) string {
	t.Helper()
	dir := looptest.Dir(t)
	os.Chmod(dir, 0o755)
	return dir
}

// try does what main does until a core would be started.
func try(args []string) (stdout, stderr string, status int) {
	var out, errs strings.Builder
	c, action, err := Parse(args)
	switch {
	case action == Check:
		err = CheckStart(context.Background(), c, err, &out)
	case err == nil && action == Run:
		var all *multierror.Error
		for _, a := range c.Listen {
			l, err := c.Sock().Listen(context.Background(), a)
			if err == nil {
				l.Close()
			}
			all = multierror.Append(all, Flatten(err)...)
		}
		err = all.ErrorOrNil()
	}
	Report(&errs, err)
	return out.String(), errs.String(), ExitStatus(err)
}

// test checks a start and -check. hint is an additional line.
func (m mistake) test(t *testing.T, dir, hint string) {
	t.Helper()
	if m.setup != nil {
		m.setup(t, dir)
	}
	fill := strings.NewReplacer("$D", dir, "$U", perms.UserName(os.Geteuid()))
	if m.path != "" {
		t.Setenv("PATH", fill.Replace(m.path))
	}
	var args []string
	if !m.listens {
		args = []string{"-listen", "unix:" + dir + "/s"}
	}
	for _, a := range m.args {
		args = append(args, fill.Replace(a))
	}
	var want string
	for _, line := range m.stderr {
		want += "onewake: " + fill.Replace(line) + "\n"
	}
	want += hint
	socket := dir + "/s"
	before, _ := os.Lstat(socket)
	for i, args := range [][]string{args, append([]string{"-check"}, args...)} {
		if i == 1 && m.binds {
			break
		}
		if stdout, stderr, status := try(args); status != m.status || stderr != want || stdout != "" {
			t.Errorf("%q: exit status %d, want %d\n%s\nwant\n%s%s", args, status, m.status, stderr, want, stdout)
		}
	}
	after, _ := os.Lstat(socket)
	if (before == nil) != (after == nil) || before != nil && (!os.SameFile(before, after) || before.Mode() != after.Mode() || before.ModTime() != after.ModTime()) {
		t.Errorf("the socket file has changed: %v, %v", before, after)
	}
}

func TestMessageDescriptors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, tt := range []struct {
		kind   int // type of socket, or 0 for a file
		want   string
		status int
	}{
		{0, "not a socket, the parent process must pass a listening socket there", StatusConfig},
		{unix.SOCK_STREAM, "not a listening socket, whoever passes it must call listen(2) first", StatusUsage},
		{unix.SOCK_DGRAM, "not a stream socket", StatusUsage},
	} {
		fd := int(null.Fd())
		if tt.kind != 0 {
			if fd, err = unix.Socket(unix.AF_UNIX, tt.kind, 0); err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
		}
		name := fmt.Sprintf("fd:%d", fd)
		mistake{listens: true, args: []string{"-listen", name}, status: tt.status,
			stderr: []string{fmt.Sprintf("listen %s: descriptor %d: %s", name, fd, tt.want)}}.test(t, newDir(t), "")
	}
}

func TestMessageInUse(t *testing.T) {
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := "tcp4:" + ln.Addr().String()
	mistake{listens: true, binds: true, args: []string{"-listen", addr}, status: StatusInUse,
		stderr: []string{"listen " + addr + ": address already in use: another server has it" + toFind}}.test(t, newDir(t), "")
}

// A note is the output of -check for a valid command line.
type note struct {
	args []string
	want string
}

func (n note) test(t *testing.T) {
	t.Helper()
	args := n.args
	if !slices.Contains(args, "-listen") {
		args = append([]string{"-listen", "tcp4:127.0.0.1:0"}, args...)
	}
	stdout, stderr, status := try(append([]string{"-check"}, args...))
	if status != StatusOK || stderr != "" || stdout != n.want+"configuration is good\n" {
		t.Errorf("%q: %d, %q, %q; want %q", args, status, stdout, stderr, n.want)
	}
}

// TestNotes checks the output of -check for valid command lines.
func TestNotes(t *testing.T) {
	dir := newDir(t)
	file("env", "#!/usr/bin/env sh\n", 0o755)(t, dir)
	ln, err := net.Listen("unix", dir+"/left")
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	running, err := sock.Listen(t.Context(), sock.Addr{Network: sock.Unix, Address: dir + "/running"}, perms.Spec{Mode: perms.Set(0o600)})
	if err != nil {
		t.Fatal(err)
	}
	defer running.Close()
	if os.Geteuid() != 0 {
		// It can be executed, but not read.
		file("hidden", "no #!\n", 0o311)(t, dir)
		note{args: []string{dir + "/hidden"}}.test(t)
	}
	tooMany := "" // if the system has no limit
	if _, allowed := new(Config).OpenFiles(); allowed < 1<<30 {
		tooMany = fmt.Sprintf("-max-conns 1073741824: all limits together need up to 1073741846 open files, the system allows %d (ulimit -n)\n", allowed)
	}
	for _, n := range []note{
		{args: nil},
		{args: []string{"/bin/sh", "-c", "x"}},
		{args: []string{"sh"}, want: `command "sh": ` + shPath() + "\n"},
		{args: []string{dir + "/env"}},
		{args: []string{"-listen", "unix:" + dir + "/new"}},
		{args: []string{"-listen", "unix:" + dir + "/left"}, want: "unix:" + dir + "/left: " + dir + "/left: a leftover socket file, removed at start\n"},
		{args: []string{"-listen", "unix:" + dir + "/running"}, want: "unix:" + dir + "/running: onewake is running\n"},

		// Flags that are ignored, and the same flags where they are not.
		{args: []string{"-protocol", "fastcgi", "-param", "X"}},
		{args: []string{"-protocol", "fastcgi", "-forwarded", "X-Real-IP"}, want: "-forwarded: ignored with -protocol fastcgi, where all parameters are trusted\n"},
		{args: []string{"-protocol", "fastcgi", "-script-name", "/x"}, want: "-script-name: ignored with -protocol fastcgi, where the web server sends SCRIPT_NAME\n"},
		{args: []string{"-forwarded", "X-Real-IP", "-script-name", "/x"}},
		{args: []string{"-param", "X"}, want: "-param: ignored without -protocol fastcgi\n"},
		{args: []string{"-max-conns", "1073741824", "-max-procs", "2", "-max-queue", "3"}, want: tooMany},
		{args: []string{"-stream", "/bin/date"}},
		{args: []string{"-stream", "-cgi", "/bin/date"}, want: "-stream: ignored with -cgi, where output is always sent as it comes\n"},
	} {
		n.test(t)
	}
	if _, err := os.Lstat(dir + "/left"); err != nil {
		t.Errorf("-check has removed a stale socket: %v", err)
	}
}
