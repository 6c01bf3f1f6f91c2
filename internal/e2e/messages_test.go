//go:build freebsd || linux

package e2e

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/perms"
)

// toFind is what follows an address that is taken.
var toFind = map[string]string{"freebsd": " (to find it: sockstat -l)", "linux": " (to find it: ss -lnp)"}[runtime.GOOS]

// A mistake of an administrator, and what is then read. A start and
// -check say the same. In all texts $D is a directory of the case's own, $U the
// user's name.
type mistake struct {
	name    string
	setup   func(t *testing.T, dir string) // of $D
	args    []string
	stderr  []string // lines, each behind "onewake: "
	status  int
	nobody  bool     // run by nobody, whose $D is; else by whoever runs the tests
	env     []string // instead of the tests' own
	listens bool     // args have -listen; else it is given, and not at fault
}

// file makes a file in $D.
func file(name, text string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		if err := writeProgram(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func mkdir(name string, mode os.FileMode) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.Mkdir(path, mode); err != nil {
			t.Fatal(err)
		}
		os.Chmod(path, mode) // whatever the umask
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

// shPath is where sh(1) is, which is /sbin/sh where that is /bin.
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
	{name: "no flag", args: []string{"-timeout", "1s", "---x"}, status: 64, stderr: []string{`"---x": not a flag`}},
	{name: "no value", args: []string{"-cgi", "-timeout"}, status: 64, stderr: []string{"-timeout: its value is missing, use -timeout TIME"}},
	{name: "no boolean", args: []string{"-access-log=off"}, status: 64,
		stderr: []string{`-access-log "off": neither true nor false, use -access-log=true or -access-log=false`}},
}

var mistakes = []mistake{
	{name: "no unit", args: []string{"-timeout", "5"}, status: 64, stderr: []string{`-timeout "5": no unit, use 5s or such`}},
	{name: "duration", args: []string{"-drain", "0"}, status: 64, stderr: []string{`-drain "0": not a duration above 0 and up to 8760h, such as 90s or 2m30s`}},
	{name: "negative", args: []string{"-kill-after=-1"}, status: 64, stderr: []string{`-kill-after "-1": not a duration above 0 and up to 8760h, such as 90s or 2m30s`}},
	{name: "number", args: []string{"-max-procs", "0"}, status: 64, stderr: []string{`-max-procs "0": not a number from 1 to 1073741824`}},
	{name: "connections", args: []string{"-max-conns", "many"}, status: 64, stderr: []string{`-max-conns "many": not a number from 1 to 1073741824`}},
	{name: "queue", args: []string{"-max-queue", "-1"}, status: 64, stderr: []string{`-max-queue "-1": not a number from 0 to 1073741824`}},
	{name: "size", args: []string{"-max-body", "16MB"}, status: 64, stderr: []string{`-max-body "16MB": not a size above 0, such as 65536, 512KiB or 16MiB`}},
	{name: "mode", args: []string{"-socket-mode", "660x"}, status: 64, stderr: []string{`-socket-mode "660x": not an octal mode from 0 to 0777, such as 0660`}},
	{name: "not octal", args: []string{"-socket-mode", "0888"}, status: 64, stderr: []string{`-socket-mode "0888": not an octal mode from 0 to 0777, such as 0660`}},
	{name: "sandbox", args: []string{"-sandbox", "no"}, status: 64, stderr: []string{`-sandbox "no": not one of its values, use on or off`}},
	{name: "log format", args: []string{"-log-format", "xml"}, status: 64, stderr: []string{`-log-format "xml": not one of its values, use text or json`}},
	{name: "owner", args: []string{"-socket-owner", "no-such"}, status: 78, stderr: []string{`-socket-owner "no-such": no such user (to see all: getent passwd)`}},
	{name: "group", args: []string{"-socket-group", "no-such"}, status: 78, stderr: []string{`-socket-group "no-such": no such group (to see all: getent group)`}},
	{name: "allowed", args: []string{"-allow", "root :wheel,:no-such,,staff"}, status: 78, stderr: []string{
		`-allow "root :wheel,:no-such,,staff": "root :wheel": no such user, a group is written :GROUP and a comma is between names (to see all: getent passwd)`,
		`-allow "root :wheel,:no-such,,staff": ":no-such": no such group (to see all: getent group)`,
		`-allow "root :wheel,:no-such,,staff": "": no name, use USER or :GROUP with a comma between them, or no -allow at all`,
		`-allow "root :wheel,:no-such,,staff": "staff": a group and no user, use :staff`}},
	{name: "type", args: []string{"-content-type", "text/html\nX: y"}, status: 64, stderr: []string{`-content-type "text/html\nX: y": not a media type, such as text/html`}},
	{name: "half a type", args: []string{"-content-type", "html"}, status: 64, stderr: []string{`-content-type "html": not a media type, such as text/html`}},
	{name: "variable without a name", args: []string{"-env", "=x"}, status: 64, stderr: []string{`-env "=x": no name, use NAME=VALUE, or NAME to copy it`}},
	{name: "variable of requests", args: []string{"-env", "PATH_INFO=x"}, status: 64, stderr: []string{`-env "PATH_INFO=x": PATH_INFO is kept for what requests say, use another name`}},
	{name: "variable to copy", args: []string{"-env", "NO_SUCH"}, status: 78, stderr: []string{`-env "NO_SUCH": not in the environment of onewake, set it there or use NO_SUCH=VALUE`}},
	{name: "forwarded", args: []string{"-forwarded", "X-Real-IP,X-Forwarded-Fro"}, status: 64,
		stderr: []string{`-forwarded "X-Real-IP,X-Forwarded-Fro": "X-Forwarded-Fro" is not one of X-Real-IP, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, X-Request-Id`}},
	{name: "script name", args: []string{"-script-name", "app/"}, status: 64, stderr: []string{`-script-name "app/": not a path such as /cgi-bin/foo, without ? or # and without a slash at its end`}},
	{name: "relative directory", args: []string{"-dir", "x/y"}, status: 64, stderr: []string{`-dir "x/y": not an absolute path, use /x/y`}},
	{name: "empty directory", args: []string{"-spool-dir", ""}, status: 64, stderr: []string{`-spool-dir "": not an absolute path, use /var/tmp`}},
	{name: "missing directory", args: []string{"-dir", "$D/x"}, status: 78, stderr: []string{`-dir "$D/x": no such file or directory (to mend: install -d -o $U $D/x)`}},
	{name: "no directory", setup: file("x", "", 0o644), args: []string{"-spool-dir", "$D/x"}, status: 78, stderr: []string{`-spool-dir "$D/x": not a directory, use $D`}},
	{name: "closed directory", nobody: true, setup: mkdir("x", 0o700), args: []string{"-dir", "$D/x"}, status: 77, stderr: []string{`-dir "$D/x": permission denied: user $U cannot enter it`}},
	{name: "directory in a closed one", nobody: true, setup: mkdir("x", 0o700), args: []string{"-dir", "$D/x/y"}, status: 77, stderr: []string{`-dir "$D/x/y": permission denied: user $U cannot enter it`}},
	{name: "directory to read", nobody: true, setup: mkdir("x", 0o755), args: []string{"-spool-dir", "$D/x"}, status: 77,
		stderr: []string{`-spool-dir "$D/x": permission denied: user $U cannot make files there, use one where it can, such as /var/tmp`}},

	{name: "no command", args: []string{"-cgi"}, status: 64, stderr: []string{"-cgi: no command is given, put one behind the flags"}},
	{name: "empty command", args: []string{""}, status: 78, stderr: []string{`command "": empty, give the path of a program, or nothing for the test page`}},
	{name: "unknown command", args: []string{"no-such"}, status: 78,
		stderr: []string{`command "no-such": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, give its absolute path`}},
	{name: "command in another PATH", env: []string{"PATH=$D"}, setup: file("no-such", "#!/bin/sh\n", 0o755), args: []string{"no-such"}, status: 78,
		stderr: []string{`command "no-such": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, give its absolute path, $D/no-such`}},
	{name: "value of a boolean", args: []string{"-access-log", "no"}, status: 78,
		stderr: []string{`command "no": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, give its absolute path (the flag is -access-log=true or -access-log=false)`}},
	{name: "flag without a dash", args: []string{"version"}, status: 78,
		stderr: []string{`command "version": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, give its absolute path (the flag is -version)`}},
	{name: "help", args: []string{"help"}, status: 78,
		stderr: []string{`command "help": not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin, give its absolute path (the flag is -h)`}},
	{name: "missing command", args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": no such file or directory`}},
	{name: "missing relative command", args: []string{"./no-such/x"}, status: 78, stderr: []string{`command "./no-such/x": /no-such/x: no such file or directory`}},
	{name: "not executable", setup: file("x", "#!/bin/sh\n", 0o644), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": not executable for user $U (to mend: chmod a+x $D/x)`}},
	{name: "directory for a command", args: []string{"$D"}, status: 78, stderr: []string{`command "$D": a directory, give the path of a program`}},
	{name: "socket for a command", setup: serveAt("x", 0o777), args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": not a regular file, give the path of a program`}},
	{name: "command in a closed directory", nobody: true, setup: mkdir("x", 0o700), args: []string{"$D/x/y"}, status: 78,
		stderr: []string{`command "$D/x/y": permission denied: user $U cannot look into its directory`}},
	{name: "empty file", setup: file("x", "", 0o755), args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": an empty file, give the path of a program`}},
	{name: "no #!", setup: file("x", "echo hello\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": a script whose first line is not #!, which says what runs it (to mend: put #!/bin/sh or such there, or give the command as /bin/sh $D/x)`}},
	{name: "byte order mark", setup: file("x", "\ufeff#!/bin/sh\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": a byte order mark is before its #!, save it without one`}},
	{name: "no interpreter", setup: file("x", "#! \n", 0o755), args: []string{"$D/x"}, status: 78, stderr: []string{`command "$D/x": its #! names no interpreter, such as #!/bin/sh`}},
	{name: "missing interpreter", setup: file("x", "#!/no-such/pythno -u\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! names /no-such/pythno: no such file or directory`}},
	{name: "interpreter elsewhere", setup: file("x", "#!\t/no-such/sh\t-e\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! names /no-such/sh: no such file or directory (to mend: #!` + shPath() + `)`}},
	{name: "interpreter below -dir", setup: file("x", "#!y\n", 0o755), args: []string{"-dir", "/usr", "$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! names /usr/y: no such file or directory`}},
	{name: "line end of DOS", setup: file("x", "#!/bin/sh\r\necho\r\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! line ends in a carriage return, save it with line ends of Unix (tr -d '\r')`}},
	{name: "env does not find", setup: file("x", "#!/usr/bin/env no-such\n", 0o755), args: []string{"-env", "PATH=/a:/b", "$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! has env look for no-such, which is not in PATH=/a:/b (to mend: install it there, or -env PATH=...)`}},
	{name: "env would find elsewhere", env: []string{"PATH=$D"}, setup: file("no-such", "#!/usr/bin/env -S no-such -u\n", 0o755), args: []string{"$D/no-such"}, status: 78,
		stderr: []string{`command "$D/no-such": its #! has env look for no-such, which is not in PATH=/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin` +
			` (to mend: #!$D/no-such, or -env PATH=$D:/sbin:/bin:/usr/sbin:/usr/bin:/usr/local/sbin:/usr/local/bin)`}},
	{name: "env with two words", setup: file("x", "#!/usr/bin/env sh -e\n", 0o755), args: []string{"$D/x"}, status: 78,
		stderr: []string{`command "$D/x": its #! has env look for a program called "sh -e", use env -S sh -e`}},

	{name: "no network", listens: true, args: []string{"-listen", "8080"}, status: 64,
		stderr: []string{`-listen "8080": neither unix:/path, tcp4:host:port, tcp6:[host]:port nor fd:number`}},
	{name: "path without a network", listens: true, args: []string{"-listen", "/run/x"}, status: 64, stderr: []string{`-listen "/run/x": a path needs its network, use unix:/run/x`}},
	{name: "host without a network", listens: true, args: []string{"-listen", "tcp:[::1]:80"}, status: 64,
		stderr: []string{`-listen "tcp:[::1]:80": a host and a port need their network, use tcp6:[::1]:80`}},
	{name: "relative path", listens: true, args: []string{"-listen", "unix:s"}, status: 64, stderr: []string{`-listen "unix:s": a relative path, use unix:/path`}},
	{name: "abstract socket", listens: true, args: []string{"-listen", "@s"}, status: 64, stderr: []string{`-listen "@s": no permissions guard an abstract socket, use unix:/path`}},
	{name: "directory for a path", listens: true, args: []string{"-listen", "unix:/run/"}, status: 64, stderr: []string{`-listen "unix:/run/": names a directory, use unix:/run/NAME`}},
	{name: "path in a long form", listens: true, args: []string{"-listen", "unix:///run/x"}, status: 64, stderr: []string{`-listen "unix:///run/x": not in its shortest form, use unix:/run/x`}},
	{name: "path with ..", listens: true, args: []string{"-listen", "unix:/a/../b"}, status: 64, stderr: []string{`-listen "unix:/a/../b": a path without .. is wanted`}},
	{name: "long path", listens: true, args: []string{"-listen", "unix:/" + strings.Repeat("x", 107)}, status: 64,
		stderr: []string{`-listen "unix:/` + strings.Repeat("x", 107) + fmt.Sprintf(`": a path of 108 bytes, this system takes %d: use a shorter one`, len(unix.RawSockaddrUnix{}.Path)-1)}},
	{name: "no host", listens: true, args: []string{"-listen", "tcp4::80"}, status: 64, stderr: []string{`-listen "tcp4::80": no host, use tcp4:0.0.0.0:80 for every IPv4 address`}},
	{name: "port by name", listens: true, args: []string{"-listen", "tcp4:127.0.0.1:http"}, status: 64, stderr: []string{`-listen "tcp4:127.0.0.1:http": port "http" is not a number from 0 to 65535`}},
	{name: "no brackets", listens: true, args: []string{"-listen", "tcp6:::1:80"}, status: 64, stderr: []string{`-listen "tcp6:::1:80": an IPv6 address needs brackets and a port, use tcp6:[::1]:8080`}},
	{name: "other family", listens: true, args: []string{"-listen", "tcp6:127.0.0.1:80"}, status: 64, stderr: []string{`-listen "tcp6:127.0.0.1:80": not an IPv6 address, use tcp4:127.0.0.1:80`}},
	{name: "no zone", listens: true, args: []string{"-listen", "tcp6:[fe80::1]:80"}, status: 64,
		stderr: []string{`-listen "tcp6:[fe80::1]:80": a link-local address needs its interface, use tcp6:[fe80::1%em0]:80 or such`}},
	{name: "output", listens: true, args: []string{"-listen", "fd:1"}, status: 64, stderr: []string{`-listen "fd:1": descriptors 1 and 2 are for output, use fd:0, fd:3 or such`}},
	{name: "twice", listens: true, args: []string{"-listen", "unix:$D/s", "-listen", "unix:$D/s"}, status: 64, stderr: []string{`-listen "unix:$D/s": given twice, once is enough`}},

	{name: "closed descriptor", listens: true, args: []string{"-listen", "fd:99"}, status: 64,
		stderr: []string{"listen fd:99: descriptor 99: not open, whoever starts this must pass a listening socket there"}},
	{name: "descriptor of a file", listens: true, args: []string{"-listen", "fd:0"}, status: 78,
		stderr: []string{"listen fd:0: descriptor 0: not a socket, whoever starts this must pass a listening socket there"}},
	{name: "foreign address", listens: true, args: []string{"-listen", "tcp4:192.0.2.1:8080"}, status: 64,
		stderr: []string{"listen tcp4:192.0.2.1:8080: bind: " + syscall.EADDRNOTAVAIL.Error() + ": no interface of this machine has the address (to find its addresses: " +
			map[string]string{"freebsd": "ifconfig", "linux": "ip address"}[runtime.GOOS] + ")"}},
	{name: "no such interface", listens: true, args: []string{"-listen", "tcp6:[fe80::1%no-such]:80"}, status: 64,
		stderr: []string{`listen tcp6:[fe80::1%no-such]:80: no interface is called "no-such" (to find the names: ` +
			map[string]string{"freebsd": "ifconfig -l", "linux": "ip link"}[runtime.GOOS] + ")"}},

	{name: "no directory of the socket", listens: true, args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: no such file or directory (to mend: install -d -o $U -m 0750 $D/x)"}},
	{name: "file for a directory", listens: true, setup: file("x", "", 0o644), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: not a directory, use a path in one"}},
	{name: "open to the group", listens: true, setup: mkdir("x", 0o770), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: writable by its group (to mend: chmod g-w $D/x)"}},
	{name: "open to all", listens: true, setup: mkdir("x", 0o777), args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		stderr: []string{"listen unix:$D/x/s: $D/x: writable by its group and others (to mend: chmod go-w $D/x)"}},
	{name: "somebody else's directory", nobody: true, listens: true, args: []string{"-listen", "unix:$D/x/s"}, status: 78,
		setup: func(t *testing.T, dir string) {
			mkdir("x", 0o777|os.ModeSticky)(t, dir)
			os.Chown(dir+"/x", 4000000000, -1)
		}, stderr: []string{"listen unix:$D/x/s: $D/x: owned by user 4000000000, neither by $U nor by root (to mend: chown $U $D/x)"}},
	{name: "directory of root's", nobody: true, listens: true, setup: mkdir("x", 0o755), args: []string{"-listen", "unix:$D/x/s"}, status: 77,
		stderr: []string{"listen unix:$D/x/s: $D/x: permission denied: user $U can make no socket there, use a directory of its own"}},
	{name: "closed directory of root's", nobody: true, listens: true, setup: mkdir("x", 0o700), args: []string{"-listen", "unix:$D/x/s"}, status: 77,
		stderr: []string{"listen unix:$D/x/s: $D/x: permission denied: user $U cannot read it, use a directory of its own"}},
	{name: "a file", setup: file("s", "", 0o644), status: 78, stderr: []string{"listen unix:$D/s: $D/s: not a socket but a regular file, move it away or use another path"}},
	{name: "a directory", setup: mkdir("s", 0o755), status: 78, stderr: []string{"listen unix:$D/s: $D/s: not a socket but a directory, move it away or use another path"}},
	{name: "a link", setup: func(t *testing.T, dir string) { os.Symlink("x", dir+"/s") }, status: 78,
		stderr: []string{"listen unix:$D/s: $D/s: not a socket but a symbolic link, move it away or use another path"}},
	{name: "another server", setup: serveAt("s", 0o666), status: 69, stderr: []string{"listen unix:$D/s: address already in use: another server answers" + toFind}},
	{name: "a closed server", nobody: true, setup: serveAt("s", 0o600), status: 77,
		stderr: []string{"listen unix:$D/s: $D/s: connect: permission denied: a socket of user root, whose server may be running (to mend: stop that server, remove the file)"}},
	{name: "owner by another than root", nobody: true, args: []string{"-socket-owner", "root"}, status: 77,
		stderr: []string{"listen unix:$D/s: owner root: only root can give a socket away, and user $U starts this (to mend: leave the owner out, or start it as that user)"}},
	{name: "group of others", nobody: true, args: []string{"-socket-group", "4000000000"}, status: 77,
		stderr: []string{"listen unix:$D/s: group 4000000000: user $U is not in it, and the group of $D is another (to mend: add the user to the group, or give it the directory)"}},
	{name: "lock of a link", setup: func(t *testing.T, dir string) { os.Symlink("x", dir+"/.s.lock") }, status: 78,
		stderr: []string{"listen unix:$D/s: $D/.s.lock: not a regular file, which a lock file is (to mend: remove it)"}},
	{name: "lock of root's", nobody: true, setup: file(".s.lock", "", 0o600), status: 78,
		stderr: []string{"listen unix:$D/s: $D/.s.lock: owned by user root, not by $U (to mend: remove it)"}},
	{name: "lock with two names", setup: func(t *testing.T, dir string) {
		os.Chmod(dir, 0o777|os.ModeSticky)
		file("x", "", 0o600)(t, dir)
		os.Link(dir+"/x", dir+"/.s.lock")
	}, status: 78, stderr: []string{"listen unix:$D/s: $D/.s.lock: has 2 links, a lock file has one (to mend: remove it)"}},

	{name: "all at once", args: []string{"-timeout", "5", "-dir", "$D/x", "$D/y"}, status: 64, stderr: []string{
		`-dir "$D/x": no such file or directory (to mend: install -d -o $U $D/x)`, `-timeout "5": no unit, use 5s or such`, `command "$D/y": no such file or directory`}},
}

// TestMessages: each mistake is told in these words, by a start and by -check.
func TestMessages(t *testing.T) {
	t.Parallel()
	for _, m := range flagMistakes {
		t.Run(m.name, func(t *testing.T) { m.test(t, "onewake -h lists the flags\n") })
	}
	for _, m := range mistakes {
		t.Run(m.name, func(t *testing.T) { m.test(t, "") })
	}
}

func (m mistake) test(t *testing.T, hint string) {
	t.Parallel()
	l := launch{}
	who := perms.UserName(os.Geteuid())
	if m.nobody {
		needRoot(t, "it takes on another user")
		l.cred = nobody(t)
		who = "nobody"
	}
	dir := newDir(t, l.cred)
	if m.setup != nil {
		m.setup(t, dir)
	}
	fill := strings.NewReplacer("$D", dir, "$U", who)
	if !m.listens {
		l.args = []string{"-listen", "unix:" + dir + "/s"}
	}
	for _, a := range m.args {
		l.args = append(l.args, fill.Replace(a))
	}
	for _, v := range m.env {
		l.env = append(l.env, fill.Replace(v))
	}
	var want string
	for _, line := range m.stderr {
		want += "onewake: " + fill.Replace(line) + "\n"
	}
	want += hint
	start := l.args
	for _, l.args = range [][]string{start, append([]string{"-check"}, start...)} {
		if r := l.run(t); r.status != m.status || r.stderr != want || r.stdout != "" {
			t.Errorf("%q: exit status %d, want %d\n%s\nwant\n%s%s", l.args, r.status, m.status, r.stderr, want, r.stdout)
		}
	}
}

// A port that is root's, which is not so everywhere.
func TestMessageLowPort(t *testing.T) {
	t.Parallel()
	needRoot(t, "it takes on another user")
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil && string(b) != "1024\n" {
		t.Logf("ports from %s are free for all", bytes.TrimSpace(b))
		return
	}
	l := launch{cred: nobody(t), args: []string{"-listen", "tcp4:127.0.0.1:1"}}
	want := "onewake: listen tcp4:127.0.0.1:1: bind: permission denied: only root may have a port below 1024, use a higher one\n"
	if r := l.run(t); r.status != statusNoPerm || r.stderr != want {
		t.Errorf("%d, %q", r.status, r.stderr)
	}
}

// Descriptors that are sockets and yet of no use.
func TestMessageDescriptors(t *testing.T) {
	t.Parallel()
	for kind, want := range map[int]string{
		unix.SOCK_STREAM: "a socket that does not listen, whoever passes it must call listen(2) before",
		unix.SOCK_DGRAM:  "not a stream socket",
	} {
		fd, err := unix.Socket(unix.AF_UNIX, kind, 0)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(fd), "socket")
		defer f.Close()
		r := launch{files: []*os.File{f}, args: []string{"-listen", "fd:3"}}.run(t)
		if r.status != statusUsage || r.stderr != "onewake: listen fd:3: descriptor 3: "+want+"\n" {
			t.Errorf("%d, %q", r.status, r.stderr)
		}
	}
}

// A running onewake: a second one says what keeps it out, -check says that all
// is well.
func TestMessageRunning(t *testing.T) {
	t.Parallel()
	s := start(t)
	find := map[string]string{"freebsd": " (to find it: fstat ", "linux": " (to find it: fuser "}[runtime.GOOS] + s.dir + "/.s.lock)"
	want := "onewake: listen unix:" + s.path + ": address already in use: a running server holds " + s.dir + "/.s.lock" + find + "\n"
	if r := run(t, "-listen", "unix:"+s.path); r.status != statusInUse || r.stderr != want {
		t.Errorf("%d, %q, want %q", r.status, r.stderr, want)
	}
	if r := run(t, "-check", "-listen", "unix:"+s.path); r.status != 0 || r.stderr != "" ||
		r.stdout != "unix:"+s.path+": a server of ours is running\nconfiguration is good\n" {
		t.Errorf("%+v", r)
	}
	s.stop()
}

// A server that does not answer: -check says what takes it so long, and on
// standard error.
func TestMessageSlow(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := "tcp4:" + ln.Addr().String()
	want := "onewake: listen " + addr + ": address already in use: another server has it" + toFind + "\n"
	if r := run(t, "-listen", addr); r.status != statusInUse || r.stderr != want {
		t.Errorf("%d, %q, want %q", r.status, r.stderr, want)
	}
	want = "onewake: still asking the server at " + addr + " what it is, for 2 seconds at most\n" + want
	if r := run(t, "-check", "-listen", addr); r.status != statusInUse || r.stderr != want || r.stdout != "" {
		t.Errorf("%+v, want %q", r, want)
	}
}

// What is allowed, and perhaps not meant: -check says so, and it is good.
func TestMessageDoubts(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	other, err := os.ReadFile("/bin/sh")
	if err != nil {
		t.Fatal(err)
	}
	other[18] ^= 0xff // e_machine
	for name, b := range map[string][]byte{
		"other": other, "binary": {0xfe, 0xed, 0}, "dos": []byte("#!/bin/sh -e\r\n"), "good": []byte("#!/usr/bin/env -S FOO=bar no-such\n"),
		"env": []byte("#!/usr/bin/env sh\n"), "hidden": []byte("no #!\n"),
	} {
		if err := writeProgram(filepath.Join(dir, name), b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	os.Chmod(dir+"/hidden", 0o711)
	var asNobody launch
	if os.Geteuid() == 0 {
		asNobody.cred = nobody(t)
	}
	for _, tt := range []struct {
		l    launch
		args []string
		want string
	}{
		{args: []string{"/bin/sh", "-timeout", "5s"}, want: "-timeout: behind the command, and so given to it (if that is meant, put -- before the command)\n"},
		{args: []string{"--", "/bin/sh", "-timeout", "5s"}},
		{args: []string{"/bin/sh", "-c", "x", "timeout", "--", "-cgi"}},
		{args: []string{"sh"}, want: `command "sh": ` + shPath() + "\n"},
		{args: []string{"-allow", "root"}, want: `-allow "root": everybody can connect all the same, it is for unix sockets and there is none` + "\n"},
		{args: []string{dir + "/other"}, want: `command "` + dir + `/other": a program for another kind of machine than onewake, this system may not execute it` + "\n"},
		{args: []string{dir + "/binary"}, want: `command "` + dir + `/binary": neither ELF nor a script, this system may not execute it` + "\n"},
		{args: []string{dir + "/dos"}, want: `command "` + dir + `/dos": its #! line ends in a carriage return, save it with line ends of Unix (tr -d '\r')` + "\n"},
		{args: []string{dir + "/good"}},
		{args: []string{dir + "/env"}},
		{l: asNobody, args: []string{dir + "/hidden"}},
	} {
		if tt.l.cred == nil && tt.args[0] == dir+"/hidden" {
			continue // our own, and so to be read
		}
		tt.l.args = append([]string{"-check", "-listen", "tcp4:127.0.0.1:0"}, tt.args...)
		if r := tt.l.run(t); r.status != 0 || r.stderr != "" || r.stdout != tt.want+"configuration is good\n" {
			t.Errorf("%q: %+v, want %q", tt.args, r, tt.want)
		}
	}
}
