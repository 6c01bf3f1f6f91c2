//go:build linux

package main

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/onewake/onewake/internal/e2e"
)

// End-to-end tests that need Linux: a seccomp filter in place of capability mode, the
// system calls of a core in strace(1), and its descriptors in /proc.

func TestMain(m *testing.M) { os.Exit(e2e.Main(m)) }

// With the build tag confine the kernel kills a core that makes a call that
// capability mode refuses.
func TestConfined(t *testing.T) {
	t.Parallel()
	e2e.SkipRace(t)
	e2e.Life(t, e2e.Build(t, "-tags", "confine"))
}

// strace(1) shows no call that capability mode refuses, after the point at which a
// core enters it on FreeBSD.
func TestSystemCalls(t *testing.T) {
	t.Parallel()
	e2e.NeedRoot(t, "only root can trace monitor and core")
	strace := e2e.Need(t, "strace", "apt-get install strace")
	e2e.SkipRace(t)
	dir := t.TempDir()
	e2e.Life(t, "", strace, "-q", "-ff", "-ttt", "-s", "100", "-o", dir+"/trace")
	w := traces{t: t, dir: dir, calls: make(map[string]int)}
	w.check()
	if w.cores != e2e.Cores {
		t.Errorf("%d cores in the traces, want %d", w.cores, e2e.Cores)
	}
	t.Logf("%d calls of %d cores with %d threads: %v", w.total, w.cores, w.threads, w.calls)
}

// The environment of a core is empty, and it has only the descriptors that it needs.
func TestCoreDescriptors(t *testing.T) {
	t.Parallel()
	e2e.EachCore(t, func(t *testing.T, _ int, core e2e.Process) {
		if core.Environment != "" {
			t.Errorf("environment %q", core.Environment)
		}
		have := make(map[string]int)
		for _, d := range core.Descriptors {
			number, to, _ := strings.Cut(d, " ")
			what, _, _ := strings.Cut(to, ":[")
			switch {
			case number == "0" || number == "1":
				what = d
			case number == "2":
				what = "2"
			case strings.HasSuffix(to, ".lock"):
				what = "lock"
			case what == "anon_inode":
				what = to
			}
			have[what]++
		}
		want := map[string]int{
			"0 /dev/null": 1, "1 /dev/null": 1, "2": 1,
			"socket": 3 + 1, // and the control socket
			"lock":   2,
			// The Go runtime's poller.
			"anon_inode:[eventpoll]": 1, "anon_inode:[eventfd]": 1,
		}
		if !maps.Equal(have, want) {
			t.Errorf("the core has open %v, want %v", have, want)
		}
	})
}

// While a command runs the core also has the connection and the pipes. Its only
// other file is the body of the request, which has been unlinked.
func TestCoreAtWork(t *testing.T) {
	t.Parallel()
	e2e.CoreAtWork(t, func(core e2e.Process) {
		for _, d := range core.Descriptors {
			_, to, _ := strings.Cut(d, " ")
			if strings.HasPrefix(to, "/") && to != "/dev/null" && !strings.HasSuffix(to, ".lock") && !strings.HasSuffix(to, " (deleted)") {
				t.Errorf("the core has open %s", d)
			}
		}
	})
}

func TestUntraceable(t *testing.T) {
	t.Parallel()
	e2e.Untraceable(t)
}

// traces are the output of strace, one file for each thread.
type traces struct {
	t                     *testing.T
	dir                   string
	cores, threads, total int
	calls                 map[string]int
}

// systemCall is a line of a trace: a call that begins or is resumed.
type systemCall struct {
	line             string
	when             float64
	text, call, args string
}

var (
	tracedCall = regexp.MustCompile(`^([0-9.]+) (?:<\.\.\. )?(([a-z0-9_]+)(?: resumed>|\()(.*))$`)
	birth      = regexp.MustCompile(`^(?:clone|clone3)(?:\(| resumed>).*CLONE_THREAD.* = ([0-9]+)$`)
	// The last call of a core before it would enter capability mode.
	beforeEntry = regexp.MustCompile(`^prctl\(PR_SET_DUMPABLE, (?:0|SUID_DUMP_DISABLE)\)`)
)

func parseTrace(line string) (c systemCall, ok bool) {
	m := tracedCall.FindStringSubmatch(line)
	if m == nil {
		return c, false // a signal, an exit
	}
	when, _ := strconv.ParseFloat(m[1], 64)
	return systemCall{line, when, m[2], m[3], m[4]}, true
}

func (w *traces) read(file string) (calls []systemCall) {
	b, _ := os.ReadFile(file) // a thread without a call has no file
	for line := range strings.Lines(string(b)) {
		if c, ok := parseTrace(strings.TrimSuffix(line, "\n")); ok {
			calls = append(calls, c)
		}
	}
	return calls
}

func (w *traces) check() {
	files, err := filepath.Glob(w.dir + "/trace.*")
	if err != nil || len(files) == 0 {
		w.t.Fatalf("no traces: %v", err)
	}
	for _, file := range files {
		for _, c := range w.read(file) {
			if c.call == "execve" && strings.Contains(c.args, `["onewake: core"]`) {
				w.core(strings.TrimPrefix(filepath.Ext(file), "."))
			}
		}
	}
}

func (w *traces) core(pid string) {
	w.cores++
	var all []systemCall
	threads, entered := []string{pid}, -1.0
	for i := 0; i < len(threads); i++ {
		calls := w.read(w.dir + "/trace." + threads[i])
		for _, c := range calls {
			if m := birth.FindStringSubmatch(c.text); m != nil {
				threads = append(threads, m[1])
			}
			if beforeEntry.MatchString(c.text) {
				entered = c.when
			}
		}
		all = append(all, calls...)
	}
	if entered < 0 {
		w.t.Errorf("core %s did not reach the point where it would enter capability mode", pid)
		return
	}
	w.threads += len(threads)
	for _, c := range all {
		if c.when <= entered {
			continue
		}
		w.total++
		w.calls[c.call]++
		if why := refused(pid, c.call, c.args); why != "" {
			w.t.Errorf("core %s: %s: %s", pid, why, c.line)
		}
	}
}

// allowedCalls are the calls that a core may make: those whose counterpart is
// permitted in capability mode (sys/kern/capabilities.conf of FreeBSD), and those of
// the Go runtime for memory, threads and signals.
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

// refused returns why capability mode would refuse a call, or "".
func refused(core, call, args string) string {
	switch {
	case strings.Contains(args, "<unfinished"):
		// The thread was killed. If that was when a call returned, strace takes
		// its result, such as -ENOTCONN or 56 bytes, for the number of a call.
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

// Lines that TestSystemCalls must report, and some that it must accept.
func TestRefused(t *testing.T) {
	for _, tt := range []struct {
		line string
		bad  bool
	}{
		{`1700000001.5 openat(AT_FDCWD, "/etc/localtime", O_RDONLY) = 3`, true},
		{`1700000001.5 connect(3, {sa_family=AF_UNIX, sun_path="/x"}, 5) = 0`, true},
		{`1700000001.5 bind(3, {sa_family=AF_INET}, 16) = 0`, true},
		{`1700000001.5 kill(77, SIGTERM) = 0`, true},
		{`1700000001.5 tgkill(77, 78, SIGURG) = 0`, true},
		{`1700000001.5 tgkill(4711, 4712, SIGURG) = 0`, false},
		{`1700000001.5 clone(child_stack=NULL, flags=CLONE_VFORK|SIGCHLD) = 9`, true},
		{`1700000001.5 syscall_0x1c5(0x3, 0, 0, 0, 0, 0) = 0`, true},
		{`1700000001.5 syscall_0xffffffffffffff95(0x3, 0, 0, 0, 0, 0) = -1 ENOSYS (Function not implemented)`, true},
		{`1700000001.5 syscall_0xffffffffffffff95(0x3, 0, 0, 0, 0, 0 <unfinished ...>)`, false},
		{`1700000001.5 clone(child_stack=0x1, flags=0 <unfinished ...>)`, false},
		{`1700000001.5 <... accept4 resumed>0x0, 0x0, 0) = 9`, false},
		{`1700000001.5 read(3, "openat(AT_X", 10) = 10`, false},
	} {
		c, ok := parseTrace(tt.line)
		if !ok {
			t.Errorf("not parsed: %s", tt.line)
			continue
		}
		if why := refused("4711", c.call, c.args); (why != "") != tt.bad {
			t.Errorf("%q for %s", why, tt.line)
		}
	}
}
