//go:build freebsd

package e2e

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// What only FreeBSD can show, by what its base system tells of processes:
// procstat(1), proccontrol(1), ps(1). The tests of the other e2e files run here
// as well. Each says what it saw.

const trueProgram = "/usr/bin/true"

// hasSandbox tells whether -sandbox on confines the core here.
const hasSandbox = true

// output runs a program of the base system.
func output(t *testing.T, argv ...string) string {
	t.Helper()
	out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v\n%s", argv, err, out)
	}
	return string(out)
}

func psField(pid int, field string) string {
	out, err := exec.Command("/bin/ps", "-o", field+"=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

// isGone tells whether a process has ended. One that nobody has waited for yet
// has.
func isGone(pid int) bool {
	state := psField(pid, "state")
	return state == "" || state[0] == 'Z'
}

func isStopped(pid int) bool { return strings.HasPrefix(psField(pid, "state"), "T") }

// resident is the memory that a process holds, in KiB.
func resident(t *testing.T, pid int) int {
	t.Helper()
	n, err := strconv.Atoi(psField(pid, "rss"))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// descriptor is a line of procstat -fC.
type descriptor struct {
	number int
	kind   string   // v: vnode, s: socket, p: pipe, k: kqueue, …
	rights []string // as procstat(1) abbreviates them, without its combinations
	name   string
}

// combined are the abbreviations that stand for several rights, or for the same
// as others.
var combined = []string{"prd", "pwr", "mmr", "mmw", "mmx", "mrw", "mrx", "mwx", "mma", "re", "sd", "scl", "ssr"}

func openDescriptors(t *testing.T, pid int) (list []descriptor) {
	t.Helper()
	out := output(t, "/usr/bin/procstat", "-fC", strconv.Itoa(pid))
	for line := range strings.Lines(out) {
		// PID COMM FD T FLAGS CAPABILITIES PRO NAME
		f := strings.Fields(line)
		if len(f) < 7 {
			continue
		}
		n, err := strconv.Atoi(f[2])
		if err != nil {
			continue // the header, text, cwd, root
		}
		d := descriptor{number: n, kind: f[3], name: f[len(f)-1]}
		for _, r := range strings.Split(f[5], ",") {
			if r != "-" && !slices.Contains(combined, r) {
				d.rights = append(d.rights, r)
			}
		}
		slices.Sort(d.rights)
		list = append(list, d)
	}
	if list == nil {
		t.Fatalf("procstat says %q", out)
	}
	return list
}

// descriptors tells what a process has open.
func descriptors(t *testing.T, pid int) (list []string) {
	t.Helper()
	for _, d := range openDescriptors(t, pid) {
		list = append(list, fmt.Sprintf("%d %s %s %s", d.number, d.kind, d.name, strings.Join(d.rights, ",")))
	}
	return list
}

// environment is what a process was executed with.
func environment(t *testing.T, pid int) string {
	t.Helper()
	out := output(t, "/usr/bin/procstat", "-e", strconv.Itoa(pid))
	t.Logf("procstat -e %d:\n%s", pid, out)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	f := strings.Fields(lines[len(lines)-1])
	if len(f) < 2 || f[0] != strconv.Itoa(pid) {
		t.Fatalf("procstat says %q", out)
	}
	return strings.TrimSuffix(strings.Join(f[2:], " "), "-")
}

// ignoredSignals cannot be told from inside a Go program here; see
// TestCommandSignals.
func ignoredSignals() (ignored []int, mask string) { return nil, "" }

// Rights as the sandbox package gives them, in procstat's abbreviations.
var (
	rightsServe    = []string{"at", "ev", "fc", "gs", "pn", "rd", "sh", "sn", "ss", "wr"}
	rightsConverse = []string{"ev", "fc", "gs", "pn", "rd", "sh", "sn", "ss", "wr"}
)

// checkCoreDescriptors compares what a core has open, and its rights, with what
// it is meant to have.
func checkCoreDescriptors(t *testing.T, s *server, listeners, locks int) {
	t.Helper()
	have := make(map[string]int)
	for _, d := range openDescriptors(t, s.core) {
		rights := strings.Join(d.rights, ",")
		switch {
		case d.number <= 2:
			have[fmt.Sprintf("%d %s", d.number, rights)]++
		case d.kind == "k":
			have["kqueue"]++
		default:
			have[d.kind+" "+rights]++
		}
	}
	want := map[string]int{
		"0 rd": 1, "1 wr": 1, "2 wr": 1,
		"s " + strings.Join(rightsServe, ","):    listeners,
		"s " + strings.Join(rightsConverse, ","): 1, // the control socket
		"v ":                                     locks,
		"kqueue":                                 1, // the Go runtime's poller
	}
	if locks == 0 {
		delete(want, "v ")
	}
	for k, n := range want {
		if have[k] != n {
			t.Errorf("the core has %d of %q, want %d", have[k], k, n)
		}
		delete(have, k)
	}
	for k, n := range have {
		t.Errorf("the core has %d of %q, want none", n, k)
	}
}

// confined tells whether procstat shows a process in capability mode.
func confined(t *testing.T, pid int) bool {
	t.Helper()
	out := output(t, "/usr/bin/procstat", "-s", strconv.Itoa(pid))
	t.Logf("procstat -s %d:\n%s", pid, out)
	lines := strings.Split(strings.TrimSpace(out), "\n")
	if len(lines) != 2 {
		t.Fatalf("procstat says %q", out)
	}
	i := slices.Index(strings.Fields(lines[0]), "FLAGS")
	f := strings.Fields(lines[1])
	if i < 0 || i >= len(f) {
		t.Fatalf("procstat says %q", out)
	}
	return f[i] == "C"
}

func TestCapabilityMode(t *testing.T) {
	t.Parallel()
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			s := launch{cred: cred, args: sh(`procstat -s $$`)}.start(t)
			if got := s.await("start")["sandbox"]; got != "capability mode" {
				t.Errorf("start record: sandbox %q", got)
			}
			if !confined(t, s.core) {
				t.Error("the core is not in capability mode")
			}
			if confined(t, s.pid) {
				t.Error("the monitor is in capability mode")
			}
			a := s.get("/")
			a.wantStatus(t, 200)
			t.Logf("the command sees:\n%s", a.body)
			if strings.Contains(a.body, " C ") {
				t.Error("the command is in capability mode")
			}
			if title := psField(s.core, "args"); !strings.HasPrefix(title, "onewake: core") {
				t.Errorf("ps(1) shows the core as %q", title)
			}
			for i := range 2 {
				s.signal(syscall.SIGHUP)
				s.awaitN(i+1, "core replaced")
				if pid := s.currentCore(); !confined(t, pid) {
					t.Errorf("core %d is not in capability mode", pid)
				}
			}
			s.troubles = true
			syscall.Kill(s.currentCore(), syscall.SIGKILL)
			s.await("core died")
			if pid := s.currentCore(); !confined(t, pid) {
				t.Errorf("core %d is not in capability mode", pid)
			}
			s.stop()

			s = launch{cred: cred, args: []string{"-sandbox", "off"}}.start(t)
			if confined(t, s.core) {
				t.Error("the core is in capability mode under -sandbox off")
			}
			s.stop()
		})
	}
}

// While a request runs the core holds its connection and the command's pipes,
// with no more rights than they need.
func TestCapabilityRightsOfRequest(t *testing.T) {
	t.Parallel()
	needRoot(t, "the core is closed to its own user")
	dir := newDir(t, nil)
	s := shell(t, `echo $$ >leader; cat >/dev/null; while ! test -e go; do sleep .02; done`, "-dir", dir)
	c := dial(t, s.addr)
	c.send("%s", post11("/", strings.Repeat("x", 100000)))
	readPID(t, dir+"/leader")
	for _, d := range openDescriptors(t, s.core) {
		t.Logf("%d %s %s %s", d.number, d.kind, strings.Join(d.rights, ","), d.name)
		if d.kind == "k" {
			continue
		}
		for _, r := range d.rights {
			if !slices.Contains(rightsServe, r) {
				t.Errorf("descriptor %d (%s %s) has the right %q", d.number, d.kind, d.name, r)
			}
		}
	}
	os.WriteFile(dir+"/go", nil, 0o644)
	c.answer("POST").wantStatus(t, 200)
	s.stop()
}

// trapParts run no head(1) and the like: the command inherits the trap, and
// such programs of the base system enter capability mode themselves.
const trapParts = "^(TestHTTP|TestStatusMalformed|TestStatusExpect|TestStatusTimeout|TestLifeReload$|TestLifeDrain|TestLifeListeners|TestFlagForwarded|TestPage|TestWhoAllow)"

// Each violation is a SIGTRAP, which ends a core; no test has one.
func TestCapabilityTrap(t *testing.T) {
	t.Parallel()
	proccontrol := need(t, "proccontrol", "it is in the base system")
	rerun(t, nil, trapParts, envWrap+"="+proccontrol+" -m trapcap -s enable")
}

// No signal is ignored by a command or blocked, whatever onewake was started
// with.
func TestCommandSignals(t *testing.T) {
	t.Parallel()
	l := dirty(t)
	l.args = sh(`exec procstat -i $$`)
	// procstat looks at itself, after exec: what it ignores it was made to.
	s := l.start(t)
	a := s.get("/")
	a.wantStatus(t, 200)
	t.Logf("the command sees:\n%s", a.body)
	for line := range strings.Lines(a.body) {
		// PID COMM SIG FLAGS
		f := strings.Fields(line)
		if len(f) == 4 && f[0] != "PID" && strings.Contains(f[3], "I") {
			switch f[2] {
			case "CHLD", "URG", "IO", "WINCH", "INFO", "CONT", "LIBRT", "TRAP": // by default
			default:
				t.Errorf("ignored: %s", line)
			}
		}
	}
	s.stop()
}

// INFO, as Ctrl-T sends it.
func TestSignalInfo(t *testing.T) {
	t.Parallel()
	s := start(t)
	s.get("/").wantStatus(t, 200)
	s.signal(syscall.SIGINFO)
	if r := s.await("status"); r["served"] != "1" {
		t.Errorf("status record %v", r)
	}
	s.stop()
}

// spyings are the ways into another process of the same user.
var spyings = []spying{
	{"ptrace", func(pid int) error {
		if err := unix.PtraceAttach(pid); err != nil {
			return err
		}
		unix.Wait4(pid, nil, 0, nil)
		return unix.PtraceDetach(pid)
	}},
	{"kern.proc.env", sysctlSpying("kern.proc.env")},
	{"kern.proc.filedesc", sysctlSpying("kern.proc.filedesc")},
	{"kern.proc.vmmap", sysctlSpying("kern.proc.vmmap")},
}

func sysctlSpying(name string) func(pid int) error {
	return func(pid int) error {
		_, err := unix.SysctlRaw(name, pid)
		return err
	}
}

// -check finds a server of ours on all addresses; FreeBSD 15 does not connect
// to the wildcard.
func TestCheckWildcard(t *testing.T) {
	t.Parallel()
	for _, listen := range []string{"tcp4:0.0.0.0:0", "tcp6:[::]:0"} {
		s := start(t, "-listen", listen)
		addr := s.await("start")["listen"]
		r := run(t, "-check", "-listen", addr)
		t.Logf("%s: %d, %s%s", addr, r.status, r.stdout, r.stderr)
		if r.status != 0 || !strings.Contains(r.stdout, "an onewake is running") {
			t.Errorf("%s: exit status %d", addr, r.status)
		}
		s.stop()
	}
}

// A full queue is no stale socket: FreeBSD refuses connections to both.
func TestLiveServerWithFullQueue(t *testing.T) {
	t.Parallel()
	dir := newDir(t, nil)
	path := filepath.Join(dir, "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	full := 0
	for range 20 {
		c, err := net.Dial("unix", path)
		if err != nil {
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Fatal(err)
			}
			full++
			break
		}
		defer c.Close()
	}
	t.Logf("refused by a full queue: %d", full)
	// Somebody accepts within the second that onewake asks for.
	time.AfterFunc(500*time.Millisecond, func() {
		if nfd, _, err := unix.Accept(fd); err == nil {
			unix.Close(nfd)
		}
	})
	r := run(t, "-listen", "unix:"+path)
	if r.status != statusInUse {
		t.Errorf("exit status %d, %q", r.status, r.stderr)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the other server's socket: %v", err)
	}
}

// A web server elsewhere reaches the socket through a nullfs mount, also a
// read-only one, and cannot remove it.
func TestNullfs(t *testing.T) {
	t.Parallel()
	needRoot(t, "it mounts")
	cred := nobody(t)
	dir, mount := newDir(t, cred), newDir(t, nil)
	if out, err := exec.Command("/sbin/mount", "-t", "nullfs", "-o", "ro", dir, mount).CombinedOutput(); err != nil {
		t.Skipf("no nullfs here (in a jail?): %v, %s", err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("/sbin/umount", "-f", mount).CombinedOutput(); err != nil {
			t.Errorf("umount: %v, %s", err, out)
		}
	})
	s := launch{cred: cred, dir: dir, args: []string{"-socket-mode", "0666", "--", "/bin/echo", "hello"}}.start(t)
	s.get("/").want(t, 200, "hello\n")
	through := mount + "/s"
	web := &syscall.Credential{Uid: uidOther, Gid: uidOther}
	got := as(t, web, "connect", through)
	t.Logf("through a read-only mount: %s", got)
	if got != "in 200\n" {
		t.Error("the socket cannot be reached")
	}
	if err := os.Remove(through); !errors.Is(err, unix.EROFS) {
		t.Errorf("removing it there: %v", err)
	}
	s.stop()
}

// In a jail without network the service works over its unix socket, and its
// command has no network.
func TestJailWithoutNetwork(t *testing.T) {
	t.Parallel()
	needRoot(t, "it makes a jail")
	name := fmt.Sprintf("owtest%d", os.Getpid())
	if out, err := exec.Command("/usr/sbin/jail", "-c", "name="+name, "path=/", "ip4=disable", "ip6=disable", "persist").CombinedOutput(); err != nil {
		t.Skipf("no jail can be made here: %v, %s", err, out)
	}
	t.Cleanup(func() { exec.Command("/usr/sbin/jail", "-r", name).Run() })
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	probe := `if nc -z -w 1 127.0.0.1 ` + port + ` >/dev/null 2>&1; then echo network; else echo none; fi`
	outside := shell(t, probe)
	outside.get("/").want(t, 200, "network\n")
	outside.stop()
	s := launch{before: []string{"/usr/sbin/jexec", name}, args: sh(probe)}.start(t)
	a := s.get("/")
	t.Logf("in the jail: %s; jails: %s", a.body, output(t, "/usr/sbin/jls", "-j", name))
	a.want(t, 200, "none\n")
	if !confined(t, s.core) {
		t.Error("the core is not in capability mode")
	}
	s.stop()
}

// The service script, under the real rc.subr, as an instance of its own.
func TestService(t *testing.T) {
	t.Parallel()
	needRoot(t, "it starts a service")
	text, err := os.ReadFile("rc.d/onewake")
	if err != nil {
		t.Fatal(err)
	}
	const name = "onewake_e2e"
	dir := newDir(t, nil)
	path := filepath.Join(dir, name)
	if err := writeProgram(path, []byte(strings.ReplaceAll(string(text), "%%PREFIX%%", "/usr/local")), 0o755); err != nil {
		t.Fatal(err)
	}
	service := func(want bool, command string, vars ...string) string {
		t.Helper()
		cmd := exec.Command(path, command)
		cmd.Dir = "/"
		// Variables of the environment are the shell's, until rc.conf says
		// otherwise.
		cmd.Env = append([]string{
			"PATH=/sbin:/bin:/usr/sbin:/usr/bin", "HOME=/",
			name + "_enable=YES", name + "_user=nobody", name + "_group=nobody",
			name + "_program=" + underTest, name + "_logfile=" + dir + "/log",
			name + "_command=/bin/echo 'two words' $x",
		}, vars...)
		var out strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &out
		cmd.WaitDelay = time.Second
		err := cmd.Run()
		var ee *exec.ExitError
		if err != nil && !errors.As(err, &ee) && !errors.Is(err, exec.ErrWaitDelay) {
			t.Fatal(err)
		}
		t.Logf("%s %s: %v\n%s", name, command, err, out.String())
		if ok := cmd.ProcessState.Success(); ok != want {
			t.Errorf("%s: success is %v, want %v", command, ok, want)
		}
		return out.String()
	}
	t.Cleanup(func() { exec.Command(path, "forcestop").Run() })
	socket := "/var/run/" + name + "/" + name + ".sock"
	addr := "unix:" + socket
	s := &server{t: t, addr: addr}

	service(false, "status")
	service(true, "configtest")
	service(false, "start", name+"_flags=-timeout 0")
	service(true, "start")
	awaitServing(t, addr)
	s.get("/").want(t, 200, "two words $x\n")
	var st unix.Stat_t
	if err := unix.Lstat(socket, &st); err != nil {
		t.Fatal(err)
	}
	t.Logf("%s: mode %#o, owner %d, group %d", socket, st.Mode&0o7777, st.Uid, st.Gid)
	if cred := nobody(t); st.Mode&0o777 != 0o660 || st.Uid != cred.Uid || st.Gid != cred.Gid {
		t.Error("mode and owner of the socket")
	}
	service(true, "status")
	b, err := os.ReadFile("/var/run/" + name + ".pid")
	if err != nil {
		t.Fatal(err)
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(b)))
	before := output(t, "/bin/pgrep", "-P", strconv.Itoa(pid))
	service(true, "reload")
	eventually(t, "another core", func() bool {
		out, err := exec.Command("/bin/pgrep", "-P", strconv.Itoa(pid)).Output()
		return err == nil && string(out) != before && strings.Count(string(out), "\n") == 1
	})
	s.get("/").want(t, 200, "two words $x\n")
	service(true, "restart")
	awaitServing(t, addr)
	s.get("/").want(t, 200, "two words $x\n")
	service(true, "stop")
	if _, err := os.Lstat(socket); err == nil {
		t.Error("the socket file is left")
	}
	if log, _ := os.ReadFile(dir + "/log"); !strings.Contains(string(log), `msg="start"`) || !strings.Contains(string(log), `msg="stopped"`) {
		t.Errorf("the log:\n%s", log)
	}
	service(false, "status")
}
