package e2e

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// A monitor without descriptors to spare answers 503 and goes on when it has
// some again.
func TestStatusNoDescriptor(t *testing.T) {
	t.Parallel()
	needRoot(t, "it counts the descriptors of a process that is closed to its own user")
	for _, cred := range users(t) {
		t.Run(userLabel(cred), func(t *testing.T) {
			s := launch{cred: cred, args: []string{"--", "/bin/echo", "hello"}}.start(t)
			s.get("/").want(t, 200, "hello\n")
			before := descriptors(t, s.pid)
			limit := func(n int) { as(t, cred, "limit", fmt.Sprint(s.pid), fmt.Sprint(unix.RLIMIT_NOFILE), fmt.Sprint(n)) }
			refused := 0
			for n := range 40 { // with each, another call may be the one that fails
				limit(n)
				a := s.get("/")
				switch a.status {
				case 200:
				case 503:
					refused++
					wantField("Retry-After", "1")(t, a)
				default:
					t.Errorf("with %d descriptors: got %d, %q; want 503", n, a.status, a.body)
				}
			}
			if refused < 10 {
				t.Errorf("refused %d times", refused)
			}
			limit(1000)
			s.get("/").want(t, 200, "hello\n")
			eventually(t, "no descriptor is lost", func() bool { return len(descriptors(t, s.pid)) <= len(before) })
			s.stop()
		})
	}
}

// A user without processes to spare: 503.
func TestStatusNoProcess(t *testing.T) {
	t.Parallel()
	needRoot(t, "it needs a user that runs nothing else")
	cred := &syscall.Credential{Uid: 30077, Gid: 30077}
	s := launch{cred: cred, dir: newDir(t, cred), args: []string{"--", "/bin/echo", "hello"}}.start(t)
	s.get("/").want(t, 200, "hello\n")
	limit := func(n int) { as(t, cred, "limit", fmt.Sprint(s.pid), fmt.Sprint(unix.RLIMIT_NPROC), fmt.Sprint(n)) }
	limit(1)
	a := s.get("/")
	a.wantStatus(t, 503)
	wantField("Retry-After", "1")(t, a)
	limit(100)
	s.get("/").want(t, 200, "hello\n")
	s.stop()
}

func init() { roles["limit"] = roleLimit }

// roleLimit sets a soft limit of a process of the same user.
func roleLimit(args []string) int {
	var n [3]int
	for i := range n {
		n[i], _ = strconv.Atoi(args[i])
	}
	var r unix.Rlimit
	err := unix.Prlimit(n[0], n[1], nil, &r)
	if err == nil {
		r.Cur = min(uint64(n[2]), r.Max)
		err = unix.Prlimit(n[0], n[1], &r, nil)
	}
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// The core's own promise: after the point at which capability mode begins on
// FreeBSD it makes no system call that is refused there. Its calls are traced
// while a good part of the tests run.
func TestConfinable(t *testing.T) {
	t.Parallel()
	needRoot(t, "monitor and core do not let their own user look at the arguments of their calls")
	strace := need(t, "strace", "apt-get install strace")
	if raceEnabled {
		t.Skip("the race detector makes calls of its own; the tests without it run this")
	}
	dir := newDir(t, nil)
	if err := os.Chmod(dir, 0o777); err != nil { // for servers of all users
		t.Fatal(err)
	}
	// The tracer is a process apart (-D): the traced one stays our child.
	rerun(t, nil, watchedParts, envWrap+"="+strace+" -DD -q -ff -ttt -s 100 -o "+dir+"/trace")
	w := watch{t: t, dir: dir, calls: make(map[string]int)}
	w.look()
	if w.cores < 20 {
		t.Errorf("only %d cores were seen", w.cores)
	}
	t.Logf("%d calls of %d cores with %d threads: %v", w.total, w.cores, w.threads, w.calls)
}

// confinedParts leaves out of watchedParts what looks at the sandbox's state,
// which is another there.
const confinedParts = "^(TestStatusRaw|TestStatusCGI|TestStatusTimeout|TestStatusClientGone|TestStatusMalformed|TestStatusExpect|TestHTTP|TestMixed|TestLifeReload$|TestLifeDrain|TestLifeListeners|TestCommandSurroundings|TestFlagLimits|TestFlagForwarded|TestNginxGit|TestWhoAllow)"

// The same promise, kept by force: in a build with the tag confine the kernel
// kills a core that makes such a call, and a good part of the tests pass all
// the same.
func TestConfined(t *testing.T) {
	t.Parallel()
	if raceEnabled {
		t.Skip("the race detector makes calls of its own; the tests without it run this")
	}
	confined := filepath.Join(tools, "onewake.confined")
	if err := goBuild("CGO_ENABLED=0", "build", "-tags", "confine", "-ldflags", "-X main.version="+testVersion, "-o", confined); err != nil {
		t.Fatal(err)
	}
	rerun(t, nil, confinedParts, envBinary+"="+confined)
}

// watch reads what strace wrote, a file a thread.
type watch struct {
	t                     *testing.T
	dir                   string
	births                map[string][]float64 // of each thread's number, which can be given again
	cores, threads, total int
	calls                 map[string]int
}

// The last thing that a core does before it would enter capability mode.
var beforeEntry = regexp.MustCompile(`^prctl\(PR_SET_DUMPABLE, (?:0|SUID_DUMP_DISABLE)\)`)

var (
	tracedCall = regexp.MustCompile(`^([0-9.]+) (?:<\.\.\. )?(([a-z0-9_]+)(?: resumed>|\()(.*))$`)
	birth      = regexp.MustCompile(`^(?:clone|clone3|vfork|fork)(?:\(| resumed>).* = ([0-9]+)$`)
)

// lines goes through the trace of a thread from one moment to another.
func (w *watch) lines(tid string, from, to float64, do func(line string, when float64, text, call, args string)) {
	f, err := os.Open(w.dir + "/trace." + tid)
	if err != nil {
		return // it never made a call
	}
	defer f.Close()
	in := bufio.NewScanner(f)
	in.Buffer(make([]byte, 1<<20), 1<<20)
	for in.Scan() {
		m := tracedCall.FindStringSubmatch(in.Text())
		if m == nil {
			continue // a signal, an exit
		}
		when, _ := strconv.ParseFloat(m[1], 64)
		if when >= from && when < to {
			do(in.Text(), when, m[2], m[3], m[4])
		}
	}
}

const forever = 1e18

func (w *watch) look() {
	files, err := filepath.Glob(w.dir + "/trace.*")
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no traces: %v", err)
	}
	type execution struct {
		pid  string
		when float64
	}
	var cores []execution
	w.births = make(map[string][]float64)
	for _, file := range files {
		pid := strings.TrimPrefix(filepath.Ext(file), ".")
		w.lines(pid, 0, forever, func(_ string, when float64, text, call, args string) {
			if m := birth.FindStringSubmatch(text); m != nil {
				w.births[m[1]] = append(w.births[m[1]], when)
			}
			// A core is what executes itself under this name.
			if call == "execve" && strings.Contains(args, `["onewake: core"]`) {
				cores = append(cores, execution{pid, when})
			}
		})
	}
	for _, core := range cores {
		w.core(core.pid, core.when)
	}
}

// end is when a thread's number is given to another one.
func (w *watch) end(tid string, began float64) float64 {
	end := forever
	for _, b := range w.births[tid] {
		if b > began {
			end = min(end, b)
		}
	}
	return end
}

func (w *watch) core(pid string, executed float64) {
	end := w.end(pid, executed)
	entered := forever
	w.lines(pid, executed, end, func(_ string, when float64, text, _, _ string) {
		if beforeEntry.MatchString(text) {
			entered = min(entered, when)
		}
	})
	// It may be another of its threads that enters.
	type thread struct {
		tid         string
		began, ends float64
	}
	threads := []thread{{pid, executed, end}}
	for i := 0; i < len(threads); i++ {
		th := threads[i]
		w.lines(th.tid, th.began, th.ends, func(_ string, when float64, text, call, args string) {
			if beforeEntry.MatchString(text) {
				entered = min(entered, when)
			}
			if m := birth.FindStringSubmatch(text); m != nil && strings.Contains(args, "CLONE_THREAD") {
				threads = append(threads, thread{m[1], when, w.end(m[1], when)})
			}
		})
	}
	if entered == forever {
		return // it ended before it was ready
	}
	w.cores++
	for _, th := range threads {
		w.threads++
		w.lines(th.tid, th.began, th.ends, func(line string, when float64, _, call, args string) {
			if when <= entered {
				return
			}
			w.total++
			w.calls[call]++
			if why := refused(pid, call, args); why != "" {
				w.t.Errorf("core %s: %s: %s", pid, why, line)
			}
		})
	}
}

// allowedCalls are what a core may do: each has a counterpart that capability
// mode permits (FreeBSD's sys/kern/capabilities.conf), or is the Go runtime's
// own business with memory, threads and signals. What is not named is refused.
var allowedCalls = func() map[string]bool {
	m := make(map[string]bool)
	for name := range strings.FieldsSeq(`
		accept4 close dup3 fcntl fstat getsockname getpeername getsockopt setsockopt shutdown
		read write readv writev pread64 pwrite64 lseek recvmsg recvfrom sendmsg sendto poll ppoll
		epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 pipe2
		brk mmap munmap mprotect madvise mincore mremap
		futex sched_yield sched_getaffinity nanosleep clock_nanosleep clock_gettime gettimeofday restart_syscall
		clone clone3 set_robust_list rseq gettid getpid tgkill exit exit_group membarrier
		rt_sigaction rt_sigprocmask rt_sigreturn sigaltstack setitimer timer_create timer_settime timer_delete
		getrandom prctl getrlimit prlimit64 getuid geteuid getgid getegid`) {
		m[name] = true
	}
	return m
}()

// noCall is what strace makes of a thread that is killed as a call returns: it
// shows what came back, such as -ENOTCONN, as the number of one that begins.
// There is no call of such a number, and one that were made would be finished.
var noCall = regexp.MustCompile(`^syscall_0xfffffffffffff[0-9a-f]{3}$`)

// refused tells what capability mode would have against a call, or "".
func refused(core, call, args string) string {
	switch {
	case noCall.MatchString(call) && strings.Contains(args, "<unfinished"):
		return ""
	case !allowedCalls[call]:
		return "not permitted in capability mode"
	case strings.Contains(args, "AT_FDCWD"):
		return "relative to the working directory"
	case call == "tgkill" && !strings.HasPrefix(args, core+","):
		return "a signal to another process"
	case call == "clone" && !strings.Contains(args, "CLONE_THREAD"), call == "clone3" && !strings.Contains(args, "CLONE_THREAD"):
		return "a new process"
	case call == "prctl" && !strings.HasPrefix(args, "PR_SET_VMA") && !strings.HasPrefix(args, "PR_SET_NAME"):
		return "a change of the process"
	case (call == "sendto" || call == "sendmsg") && strings.Contains(args, "sa_family"):
		return "to an address"
	case (call == "prlimit64") && !strings.HasPrefix(args, "0, "):
		return "the limits of another process"
	}
	return ""
}

// The watch itself: lines that it must see, and some that it must not mind.
func TestWatchSees(t *testing.T) {
	for _, tt := range []struct {
		line string
		bad  bool
	}{
		{`1700000001.5 openat(AT_FDCWD, "/etc/localtime", O_RDONLY) = 3`, true},
		{`1700000001.5 openat(5, "x", O_RDONLY) = 3`, true},
		{`1700000001.5 connect(3, {sa_family=AF_UNIX, sun_path="/x"}, 5) = 0`, true},
		{`1700000001.5 bind(3, {sa_family=AF_INET}, 16) = 0`, true},
		{`1700000001.5 socket(AF_UNIX, SOCK_STREAM, 0) = 3`, true},
		{`1700000001.5 execve("/bin/sh", ["sh"], 0x0) = 0`, true},
		{`1700000001.5 kill(77, SIGTERM) = 0`, true},
		{`1700000001.5 tgkill(77, 78, SIGURG) = 0`, true},
		{`1700000001.5 tgkill(4711, 4712, SIGURG) = 0`, false},
		{`1700000001.5 chdir("/") = 0`, true},
		{`1700000001.5 fchmodat(AT_FDCWD, "x", 0600) = 0`, true},
		{`1700000001.5 newfstatat(AT_FDCWD, "/", 0x0, 0) = 0`, true},
		{`1700000001.5 clone(child_stack=NULL, flags=CLONE_VFORK|SIGCHLD) = 9`, true},
		{`1700000001.5 syscall_0x1c5(0x3, 0, 0, 0, 0, 0) = 0`, true},
		{`1700000001.5 syscall_0x1c5(0x3, 0, 0, 0, 0, 0 <unfinished ...>)`, true},
		{`1700000001.5 syscall_0xffffffffffffff95(0x3, 0, 0, 0, 0, 0) = -1 ENOSYS (Function not implemented)`, true},
		{`1700000001.5 syscall_0xffffffffffffff95(0x3, 0, 0, 0, 0, 0 <unfinished ...>)`, false},
		{`1700000001.5 syscall_0xffffffffffffff95(0x3, 0, 0, 0, 0, 0) <unfinished ...>`, false},
		{`1700000001.5 <... accept4 resumed>0x0, 0x0, 0) = 9`, false},
		{`1700000001.5 read(3, "openat(AT_X", 10) = 10`, false},
	} {
		m := tracedCall.FindStringSubmatch(tt.line)
		if m == nil {
			t.Errorf("not read: %s", tt.line)
			continue
		}
		if why := refused("4711", m[3], m[4]); (why != "") != tt.bad {
			t.Errorf("%q for %s", why, tt.line)
		}
	}
}
