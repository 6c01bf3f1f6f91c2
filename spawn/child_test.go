//go:build linux || freebsd

package spawn

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestEnvironment: the command has what is fixed and what the request adds,
// nothing of the monitor's own.
func TestEnvironment(t *testing.T) {
	alone(t, func(t *testing.T) {
		os.Setenv("SECRET", "of the daemon")
		r := newRigFor(t, Command{Path: "/usr/bin/env", Args: []string{"env"}, Dir: "/", Env: []string{"PATH=/bin", "A=b=c"}}, 4, never).run()
		out, st := r.output(false, "QUERY_STRING=a=b&c", "HTTP_X_Y=\n\xff", "PATH_INFO=")
		lines := strings.Split(strings.TrimSuffix(out, "\n"), "\n")
		slices.Sort(lines)
		want := []string{"A=b=c", "HTTP_X_Y=", "PATH=/bin", "PATH_INFO=", "QUERY_STRING=a=b&c", "\xff"}
		if st != 0 || !slices.Equal(lines, want) {
			t.Errorf("%q, status %v", lines, st)
		}
	})
}

// TestDescriptors: exactly 0, 1 and 2, and all of them blocking.
func TestDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		for fd := 3; fd < 1024; fd++ { // package main does this at its start
			unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
		}
		r := newRigFor(t, Command{Path: os.Args[0], Args: []string{"x"}, Dir: "/", Env: []string{"OW_ROLE=descriptors"}}, 4, never).run()
		if out, _ := r.output(true); out != "0 pipe blocking\n1 pipe blocking\n2 pipe blocking\n" {
			t.Errorf("with a body: %q", out)
		}
		if out, _ := r.output(false); out != "0 device blocking\n1 pipe blocking\n2 pipe blocking\n" {
			t.Errorf("without: %q", out)
		}
		p := r.start(true)
		started(t, p)
		for _, fd := range []int{p.Stdin, p.Stdout, p.Stderr} {
			if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK == 0 {
				t.Errorf("the core's end has flags %#o, %v", fl, err)
			}
			if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
				t.Errorf("the core's end is not close-on-exec: %#o, %v", fl, err)
			}
		}
		p.closed()
		exited(t, p)
	})
}

// TestDirectoryAndArguments are fixed.
func TestDirectoryAndArguments(t *testing.T) {
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		r := newRigFor(t, Command{Path: "/bin/sh", Args: []string{"other name", "-c", `pwd; printf '%s|' "$0" "$@"`, "a b", "", "*"}, Dir: dir}, 4, never).run()
		real, _ := filepath.EvalSymlinks(dir)
		if out, _ := r.output(false); out != real+"\na b||*|" {
			t.Errorf("%q", out)
		}
	})
}

func TestStatuses(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, `eval "$QUERY_STRING"`, 4, never).run()
		for script, want := range map[string]string{"exit 0": "exit 0", "exit 255": "exit 255", "kill -9 $$": "signal 9", "kill -TERM $$": "signal 15"} {
			if _, st := r.output(false, "QUERY_STRING="+script); Describe(st) != want {
				t.Errorf("%s: %s", script, Describe(st))
			}
		}
	})
}

// TestEnd: SIGTERM to the group, SIGKILL after a while to whoever ignores it.
func TestEnd(t *testing.T) {
	const soon = 10 * time.Millisecond
	for _, tt := range []struct {
		name, script string // the script begins when traps are to be set
		then         string
		killAfter    time.Duration
		status       string
	}{
		{"willing", "", "exec sleep 60", never, "signal 15"},
		{"with a child", "", "sleep 60; :", never, "signal 15"},
		{"handles TERM", "trap 'exit 7' TERM", "sleep 60 & wait", never, "exit 7"},
		{"ignores TERM", "trap '' TERM", "exec sleep 60", soon, "signal 9"},
		{"stopped", "", "kill -STOP $$; exec sleep 60", never, "signal 15"},
		{"stopped, and ignores TERM", "trap '' TERM", "kill -STOP $$; exec sleep 60", soon, "signal 9"},
	} {
		t.Run(strings.ReplaceAll(tt.name, " ", "_"), func(t *testing.T) {
			alone(t, func(t *testing.T) {
				r := newRig(t, "sleep 61 & "+tt.script+"\necho $$; echo $!; "+tt.then, 4, tt.killAfter).run()
				p := r.start(false)
				started(t, p)
				out := r.stdout(p)
				pid, child := out.pid(), out.pid()
				if strings.HasPrefix(tt.then, "kill -STOP") {
					eventually(t, "the command to stop", func() bool { return stopped(t, pid) })
				}
				r.client.End(p)
				r.client.End(p) // once more is no harm
				if got := Describe(exited(t, p)); got != tt.status {
					t.Errorf("%s, want %s", got, tt.status)
				}
				gone(t, pid)
				gone(t, child)
				p.closed()
				r.client.End(p) // and so is one after the end
				next := r.start(false)
				started(t, next)
				r.client.End(next)
				exited(t, next)
				next.closed()
			})
		})
	}
}

// stopped tells whether a signal has stopped a process.
func stopped(t *testing.T, pid int) bool {
	t.Helper()
	state, err := exec.Command("ps", "-o", "stat=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.HasPrefix(state, []byte("T"))
}

// TestLeftovers: what a leader leaves behind in its group ends with it: by
// SIGTERM, and if that is of no use by SIGKILL.
func TestLeftovers(t *testing.T) {
	for name, killAfter := range map[string]time.Duration{"mild": never, "wild": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T) {
				r := newRig(t, `sleep 60 & echo $!; OW_ROLE=stubborn `+os.Args[0]+` & read x`, 4, killAfter).run()
				sweep := func(after time.Duration) { r.do(func() { r.sup.sweepAfter, r.sup.slowSweep = after, after }) }
				sweep(never) // which would find them too
				defer sweep(time.Millisecond)
				p := r.start(true)
				started(t, p)
				out := r.stdout(p)
				mild, wild := out.pid(), out.pid()
				unix.Write(p.Stdin, []byte("\n")) // the leader ends
				exited(t, p)
				gone(t, mild)
				if name == "mild" {
					if s := out.line(); s != "terminated" {
						t.Errorf("the wild one said %q", s)
					}
					sweep(time.Millisecond)
					r.do(r.sup.KillAll)
				}
				gone(t, wild)
				p.closed()
				if log := r.logged(); strings.Contains(log, "left its group") {
					t.Errorf("of those that have not: %s", log)
				}
			})
		})
	}
}

// TestEscapees: a process that leaves its group by setsid(2) is ended after
// its request.
func TestEscapees(t *testing.T) {
	for name, killAfter := range map[string]time.Duration{"mild": never, "wild": 10 * time.Millisecond} {
		t.Run(name, func(t *testing.T) {
			alone(t, func(t *testing.T) {
				r := newRig(t, `export OW_ROLE=setsid
					`+os.Args[0]+` sh -c "$QUERY_STRING; echo \$\$; exec sleep 61" &
					read x`, 4, killAfter).run()
				r.do(func() { r.sup.sweepAfter = time.Millisecond })
				p := r.start(true, "QUERY_STRING="+map[string]string{"mild": ":", "wild": "trap '' TERM"}[name])
				started(t, p)
				pid := r.stdout(p).pid()
				unix.Write(p.Stdin, []byte("\n"))
				exited(t, p)
				p.closed()
				gone(t, pid)
				r.until("nothing to be left", r.sup.Idle)
				if n := strings.Count(r.logged(), "left its group"); n != 1 {
					t.Errorf("it is told %d times", n)
				}
			})
		})
	}
}

// TestLeaderLeavesGroup: one that is in another group is ended as well.
func TestLeaderLeavesGroup(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRigFor(t, Command{Path: os.Args[0], Args: []string{"x"}, Dir: "/", Env: []string{"OW_ROLE=leaver"}}, 4, never).run()
		p := r.start(false)
		started(t, p)
		pid := r.stdout(p).pid()
		if pgid, err := unix.Getpgid(pid); err != nil || pgid == pid {
			t.Errorf("in group %d, %v", pgid, err)
		}
		r.client.End(p)
		exited(t, p)
		gone(t, pid)
		p.closed()
	})
}

func init() {
	// setsid is setsid(1).
	roles["setsid"] = func() int {
		path, err := exec.LookPath(os.Args[1])
		if err == nil {
			_, err = syscall.Setsid()
		}
		if err == nil {
			err = syscall.Exec(path, os.Args[1:], []string{"PATH=/bin:/usr/bin"})
		}
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	// stubborn tells of each SIGTERM, and goes on.
	roles["stubborn"] = func() int {
		terms := make(chan os.Signal, 1)
		signal.Notify(terms, unix.SIGTERM)
		fmt.Println(os.Getpid())
		for sig := range terms {
			fmt.Println(sig)
		}
		return 0
	}
	// leaver moves itself into the group of a child of its own.
	roles["leaver"] = func() int {
		child := exec.Command("/bin/sleep", "60")
		child.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if child.Start() != nil || unix.Setpgid(0, child.Process.Pid) != nil {
			return 1
		}
		fmt.Println(os.Getpid())
		time.Sleep(time.Minute)
		return 0
	}
	// descriptors lists what is open.
	roles["descriptors"] = func() int {
		list := ""
		for fd := range 4096 {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			unix.Fstat(fd, &st)
			kind := map[uint32]string{unix.S_IFIFO: "pipe", unix.S_IFCHR: "device"}[uint32(st.Mode)&unix.S_IFMT]
			if kind == "" {
				continue // the poller of this program itself
			}
			list += fmt.Sprintln(fd, kind, map[bool]string{true: "blocking", false: "non-blocking"}[flags&unix.O_NONBLOCK == 0])
		}
		unix.Write(1, []byte(list))
		return 0
	}
	// monitor starts a command and waits to be killed.
	roles["monitor"] = func() int {
		runtime.LockOSThread()
		null, _ := os.OpenFile("/dev/null", os.O_RDWR, 0)
		_, _, err := Start("/bin/sh", []string{"sh", "-c", "trap '' TERM HUP; echo $$; exec sleep 60"}, "/", []string{"PATH=/bin:/usr/bin"}, null.Fd(), 1, 2)
		if err != nil {
			return 1
		}
		time.Sleep(time.Minute)
		return 0
	}
}

// TestMonitorKilled: commands die with the monitor.
func TestMonitorKilled(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OW_ROLE=monitor")
	cmd.Stdout = w
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w.Close()
	in := newReader(t, r)
	pid := in.pid()
	cmd.Process.Kill()
	cmd.Wait()
	// The pipe ends with the last process that holds it.
	if rest, err := io.ReadAll(in.in); err != nil {
		unix.Kill(pid, unix.SIGKILL)
		t.Errorf("the command is still there: %q, %v", rest, err)
	}
}

// TestNothingStays: after a hundred starts there are neither zombies nor
// more descriptors than before.
func TestNothingStays(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRigFor(t, Command{Path: trueProgram(t), Args: []string{"true"}, Dir: "/"}, 8, never).run()
		r.output(true)
		before := descriptors(t)
		for range 12 {
			var all []*Process
			for j := range 8 {
				p := r.start(j%2 == 0)
				p.Lazy = j%3 == 0
				all = append(all, p)
			}
			for _, p := range all {
				started(t, p)
				if st := exited(t, p); st != 0 {
					t.Fatal(Describe(st))
				}
				p.closed()
			}
		}
		r.until("all to be looked after", r.sup.Idle)
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		if pids := children(); len(pids) != 0 {
			t.Errorf("children %v are left", pids)
		}
	})
}

// TestStartFails: whatever the reason, an errno is told and nothing is left.
func TestStartFails(t *testing.T) {
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		os.WriteFile(dir+"/noexec", []byte("#!/bin/sh\n"), 0o600)
		os.WriteFile(dir+"/format", []byte("\x00\x01\x02"), 0o700)
		os.WriteFile(dir+"/interpreter", []byte("#!/nonexistent/sh\n"), 0o700)
		for _, tt := range []struct {
			path, dir string
			want      error
		}{
			{dir + "/missing", "/", syscall.ENOENT}, {dir + "/noexec", "/", syscall.EACCES}, {dir + "/format", "/", syscall.ENOEXEC},
			{dir + "/interpreter", "/", syscall.ENOENT}, {dir, "/", syscall.EACCES}, {trueProgram(t), dir + "/missing", syscall.ENOENT},
			{trueProgram(t), trueProgram(t), syscall.ENOTDIR},
		} {
			r := newRigFor(t, Command{Path: tt.path, Args: []string{"x"}, Dir: tt.dir}, 2, never).run()
			before := 0
			for i := range 4 {
				p := r.start(i%2 == 0)
				if err := failed(t, p); err != tt.want {
					t.Errorf("%s in %s: %v, want %v", tt.path, tt.dir, err, tt.want)
				}
				if IsTemporary(tt.want) {
					t.Errorf("%v is temporary", tt.want)
				}
				if i == 1 {
					before = descriptors(t)
				}
			}
			if after := descriptors(t); after > before {
				t.Errorf("%s: %d descriptors, then %d", tt.path, before, after)
			}
			r.until("nothing to run", r.sup.Idle)
		}
	})
}

// set hides that a limit's type differs between systems.
func set[T int64 | uint64](p *T, n int) { *p = T(n) }

// TestNoDescriptors: at every number of free descriptors a start either works
// or fails with EMFILE and leaves nothing.
func TestNoDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRigFor(t, Command{Path: trueProgram(t), Args: []string{"true"}, Dir: "/"}, 4, never).run()
		r.output(true)
		var old unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NOFILE, &old)
		before := descriptors(t)
		free, err := unix.Dup(2)
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(free)
		fails, works := 0, 0
		for n := range 16 {
			lim := old
			set(&lim.Cur, free+n)
			r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &lim) })
			p := r.start(true)
			e := happens(t, p)
			r.do(func() { unix.Setrlimit(unix.RLIMIT_NOFILE, &old) })
			switch e.Kind {
			case EventFailed:
				fails++
				if e.Errno != syscall.EMFILE || !IsTemporary(e.Errno) {
					t.Errorf("%d free: %v", n, e.Errno)
				}
			case EventStarted:
				works++
				exited(t, p)
				p.closed()
			}
			r.until("nothing to run", r.sup.Idle)
			if after := descriptors(t); after > before {
				t.Errorf("%d free: %d descriptors, then %d", n, before, after)
				before = after
			}
			select {
			case err := <-r.broken:
				t.Fatalf("%d free: the core is given up: %v", n, err)
			default:
			}
		}
		if fails == 0 || works == 0 {
			t.Errorf("%d failed, %d worked", fails, works)
		}
	})
}

// TestNoProcesses: EAGAIN for want of a process (RLIMIT_NPROC).
func TestNoProcesses(t *testing.T) {
	alone(t, func(t *testing.T) {
		if os.Getuid() == 0 { // the limit does not hold for root
			if err := syscall.Setgid(65534); err == nil {
				err = syscall.Setuid(65534)
				if err != nil {
					t.Fatal(err)
				}
			}
		}
		r := newRigFor(t, Command{Path: trueProgram(t), Args: []string{"true"}, Dir: "/"}, 4, never).run()
		r.output(true)
		before := descriptors(t)
		// The limit is one of threads as well: Go has some to spare then.
		var spare sync.WaitGroup
		spare.Add(16)
		for range 16 {
			go func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				spare.Done()
				spare.Wait()
			}()
		}
		spare.Wait()
		var old unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NPROC, &old)
		unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1, Max: old.Max})
		p := r.start(true)
		err := failed(t, p)
		unix.Setrlimit(unix.RLIMIT_NPROC, &old)
		if err != syscall.EAGAIN || !IsTemporary(err) {
			t.Errorf("%v", err)
		}
		r.output(true)
		r.until("nothing to run", r.sup.Idle)
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
	})
}

// TestSpool: a file without a name, to be read and written.
func TestSpool(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, ":", 2, never).run()
		f, err := r.client.Spool()
		if err != nil {
			t.Fatal(err)
		}
		f.WriteString("hello")
		b := make([]byte, 5)
		if _, err := f.ReadAt(b, 0); err != nil || string(b) != "hello" {
			t.Errorf("%q, %v", b, err)
		}
		fi, err := f.Stat()
		if runtime.GOOS == "freebsd" { // to write and read it is all that is allowed
			if err == nil {
				t.Error("the core can look at the file")
			}
		} else if n := fi.Sys().(*syscall.Stat_t).Nlink; n != 0 || fi.Mode() != 0o600 {
			t.Errorf("%d links, mode %v", n, fi.Mode())
		}
		if names, _ := os.ReadDir(r.dir); len(names) != 0 {
			t.Errorf("%v", names)
		}
		f.Close()
		before := descriptors(t)
		for range 50 {
			if f, err = r.client.Spool(); err != nil {
				t.Fatal(err)
			}
			f.Close()
		}
		r.do(func() { r.sup.cmd.SpoolDir = r.dir + "/missing" })
		for range 10 {
			if _, err := r.client.Spool(); err != syscall.ENOENT {
				t.Errorf("%v", err)
			}
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
	})
}
