//go:build interop

package e2e

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// execStart returns the command of a unit, the last one that is set, without
// paths and names that do not exist on this machine.
func (m *machine) execStart(unit string) []string {
	m.t.Helper()
	found := regexp.MustCompile(`(?m)^ExecStart=(.+)$`).FindAllStringSubmatch(strings.ReplaceAll(m.read(unit), "\\\n", " "), -1)
	if len(found) != 1 {
		m.t.Fatalf("%s: ExecStart %q", unit, found)
	}
	args := strings.Fields(found[0][1])
	if i := slices.Index(args, "-socket-group"); i > 0 && m.onewake == nil {
		args[i+1] = m.run("id", "-gn") // the only one that exists everywhere
	}
	return args
}

func TestInteropSystemd(t *testing.T) {
	t.Parallel()
	analyze := need(t, "systemd-analyze", "apt-get install systemd")
	m := newMachine(t)
	m.replace = []string{"/usr/sbin/nologin", "/usr/sbin/nologin"}
	p := readRecipe(t, "systemd.md")
	m.follow(p)
	m.mkdir("/run/onewake", 0o755)
	dir := m.root + "/etc/systemd/system"

	// systemd accepts every line, with the change and without it.
	t.Run("verify", func(t *testing.T) {
		for _, units := range [][]string{{"onewake.service"}, {"onewake.service", "onewake.socket"}} {
			only := t.TempDir()
			link := func(unit string) {
				if err := os.Symlink(filepath.Join(dir, unit), filepath.Join(only, unit)); err != nil {
					t.Fatal(err)
				}
			}
			for _, unit := range units {
				link(unit)
			}
			if len(units) > 1 {
				os.Mkdir(filepath.Join(only, "onewake.service.d"), 0o755)
				link("onewake.service.d/socket.conf")
			}
			cmd := m.command(nil, append([]string{analyze, "verify", "--man=no", "--recursive-errors=no"}, units...)...)
			cmd.Dir = only
			cmd.Env = append(cmd.Env, "SYSTEMD_UNIT_PATH="+only+":/lib/systemd/system")
			if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
				t.Errorf("%s: %v\n%s", units, err, out)
			}
		}
	})
	t.Run("security", func(t *testing.T) {
		// The exposure level is out of 100. Without these settings it is 96.
		cmd := m.command(nil, analyze, "security", "--offline=true", "--no-pager", "--threshold=15", dir+"/onewake.service")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
	})

	// The command works with the system calls that the unit allows, without a
	// call that old versions of systemd do not know.
	t.Run("service", func(t *testing.T) {
		python := need(t, "python3", "apt-get install python3")
		needFile(t, "/usr/lib/"+machineName(t)+"-linux-gnu/libseccomp.so.2", "apt-get install libseccomp2")
		out, err := exec.Command(analyze, "syscall-filter", "--no-pager").Output()
		if err != nil {
			t.Fatal(err)
		}
		unit := m.read("/etc/systemd/system/onewake.service")
		set := regexp.MustCompile(`(?m)^SystemCallFilter=(.*)$`).FindStringSubmatch(unit)[1]
		errno := ""
		if m := regexp.MustCompile(`(?m)^SystemCallErrorNumber=(.*)$`).FindStringSubmatch(unit); m != nil {
			errno = m[1]
		}
		filter := m.write("/var/tmp/filter", seccompLauncher, 0o644)
		permitted := slices.DeleteFunc(syscallSet(string(out), set), func(call string) bool { return call == "fchmodat2" })
		if len(permitted) < 200 {
			t.Fatalf("%s: %d calls", set, len(permitted))
		}
		calls := m.write("/var/tmp/calls", strings.Join(permitted, "\n"), 0o644)
		args := m.execStart("/etc/systemd/system/onewake.service")
		l := launch{raw: true, bin: args[0], args: args[1:], env: m.env(), cred: m.onewake, dir: m.root + "/run/onewake",
			before: []string{python, filter, calls, errno}}
		if m.onewake != nil { // SupplementaryGroups=www-data
			l.cred = &syscall.Credential{Uid: m.onewake.Uid, Gid: m.onewake.Gid, Groups: []uint32{m.www.Gid}}
		}
		s := l.start(t)
		s.path = strings.TrimPrefix(s.addr, "unix:")
		if record := s.await("start"); !strings.HasPrefix(record["socket"], "0660 ") {
			t.Error(record)
		}
		if a := ask(t, s.addr, "GET", "/", "", "X-Real-IP: 192.0.2.1"); a.status != 200 || !strings.Contains(a.body, ":") {
			t.Errorf("%d %q", a.status, a.body)
		}
		s.await("request", "client", "192.0.2.1")
		ask(t, s.addr, "POST", "/", strings.Repeat("x", 3<<20)).wantStatus(t, 200)
		s.await("request", "method", "POST")
		s.signal(syscall.SIGHUP)
		s.await("core replaced")
		eventually(t, "the last word of the core before", func() bool { return s.status()["served"] == "2" })
		s.stop()
		for _, r := range s.records {
			if r["level"] == "ERROR" {
				t.Error(r)
			}
		}
	})

	t.Run("socket", func(t *testing.T) {
		activate := need(t, "systemd-socket-activate", "apt-get install systemd")
		socket := regexp.MustCompile(`(?m)^ListenStream=(.*)$`).FindStringSubmatch(m.read("/etc/systemd/system/onewake.socket"))[1]
		args := m.execStart("/etc/systemd/system/onewake.service.d/socket.conf")
		command := slices.Index(args, "--")
		args = append(args[1:command], "--", "/usr/bin/env") // to see what reaches a command
		l := launch{raw: true, bin: m.program(), args: args, env: m.env(), cred: m.onewake, dir: m.root + "/run",
			before: []string{activate, "-l", socket, "-E", "SECRET=secret"}}
		s := l.begin(t)
		s.addr, s.errorsExpected = "unix:"+socket, true // systemd-socket-activate has lines of its own
		// The first connection starts it.
		var first net.Conn
		eventually(t, "a socket that accepts connections", func() (ok bool) {
			var err error
			first, err = dialErr(s.addr)
			return err == nil
		})
		defer first.Close()
		c := &conn{Conn: first, t: t, r: bufio.NewReader(first)}
		a := c.send("%s", askText("GET", "/path", "", "X-Real-IP: 192.0.2.1")).answer("GET")
		if a.status != 200 || !strings.Contains(a.body, "REMOTE_ADDR=192.0.2.1\n") || !strings.Contains(a.body, "PATH_INFO=/path\n") {
			t.Errorf("%d %q", a.status, a.body)
		}
		for _, bad := range []string{"LISTEN_FDS", "LISTEN_PID", "SECRET"} {
			if strings.Contains(a.body, bad) {
				t.Errorf("the command has %s", bad)
			}
		}
		s.await("start", "listen", "fd:3")
		s.signal(syscall.SIGHUP) // it has become the monitor
		s.await("core replaced")
		ask(t, s.addr, "GET", "/", "").wantStatus(t, 200)
		s.signal(syscall.SIGTERM)
		if st := s.wait(); st != statusOK {
			t.Errorf("exit status %d", st)
		}
		// What does not work according to the page.
		if _, err := os.Lstat(socket); err != nil {
			t.Errorf("the socket after the exit: %v", err)
		}
		if names, _ := filepath.Glob(filepath.Dir(socket) + "/.*.lock"); len(names) > 0 {
			t.Errorf("locks %s", names)
		}
	})
}

// syscallSet returns the system calls of a set, including the sets in it.
func syscallSet(listing, name string) (found []string) {
	in := false
	for line := range strings.Lines(listing) {
		word := strings.TrimSpace(line)
		switch {
		case !strings.HasPrefix(line, " "):
			in = word == name
		case !in || strings.HasPrefix(word, "#"):
		case strings.HasPrefix(word, "@"):
			found = append(found, syscallSet(listing, word)...)
		default:
			found = append(found, word)
		}
	}
	return found
}

// machineName is the name of the machine in Debian's library directories.
func machineName(t *testing.T) string {
	t.Helper()
	var u syscall.Utsname
	if err := syscall.Uname(&u); err != nil {
		t.Fatal(err)
	}
	var name []byte
	for _, c := range u.Machine {
		if c == 0 {
			break
		}
		name = append(name, byte(c))
	}
	return string(name)
}

// seccompLauncher executes a program with these system calls in
// SystemCallFilter=, and with RestrictAddressFamilies=AF_UNIX and
// MemoryDenyWriteExecute=yes. Like systemd, it uses one filter for each.
const seccompLauncher = `import ctypes, errno, os, sys
lib = ctypes.CDLL("libseccomp.so.2", use_errno=True)
class Arg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
lib.seccomp_init.restype = ctypes.c_void_p
for f in lib.seccomp_load, lib.seccomp_release:
    f.argtypes = [ctypes.c_void_p]
lib.seccomp_rule_add_array.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(Arg)]
ALLOW, KILL, NE, MASKED_EQ = 0x7fff0000, 0x80000000, 1, 7
def fail(n):
    return 0x50000 | n
def load(default, rules):
    ctx = lib.seccomp_init(ctypes.c_uint32(default))
    for action, call, *args in rules:
        nr = lib.seccomp_syscall_resolve_name(call.encode())
        if nr < 0:
            continue        # unknown to this libseccomp, or to this machine
        r = lib.seccomp_rule_add_array(ctx, action, nr, len(args), (Arg * len(args))(*args))
        if r != 0:
            sys.exit("%s: %d" % (call, r))
    if lib.seccomp_load(ctx) != 0:
        sys.exit("seccomp_load")
    lib.seccomp_release(ctx)
calls, number, command = open(sys.argv[1]).read().split(), sys.argv[2], sys.argv[3:]
load(ALLOW, [(fail(errno.EAFNOSUPPORT), "socket", Arg(0, NE, 1, 0))])
load(ALLOW, [(fail(errno.EPERM), "mmap", Arg(2, MASKED_EQ, 6, 6)), (fail(errno.EPERM), "mprotect", Arg(2, MASKED_EQ, 4, 4))])
load(fail(getattr(errno, number)) if number else KILL, [(ALLOW, call) for call in calls])
os.execv(command[0], command)
`
