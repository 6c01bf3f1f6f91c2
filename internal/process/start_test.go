//go:build linux || freebsd

package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
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

// TestEnvironment: the command gets Env and nothing of our environment.
func TestEnvironment(t *testing.T) {
	alone(t, func(t *testing.T) {
		os.Setenv("SECRET", "of the daemon")
		r := newRig(t, options)
		env := []string{"PATH=/bin", "A=b=c", "Q=\n\xff", "EMPTY="}
		c := r.start(&Command{Path: program(t, "env"), Args: []string{"env"}, Dir: "/", Env: env})
		out, err := io.ReadAll(c.out.in)
		want := strings.Join(env, "\n") + "\n"
		if err != nil || string(out) != want {
			t.Errorf("%q, %v, want %q", out, err, want)
		}
		c.exited()
	})
}

// TestDescriptors: the command gets 0, 1 and 2 only, and they block.
func TestDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		for fd := 3; fd < 1024; fd++ { // the monitor does this at its start
			unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
		}
		r := newRig(t, options)
		file, err := os.CreateTemp(tempDir(t), "")
		if err != nil {
			t.Fatal(err)
		}
		spool, _ := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		before := descriptors(t)
		for _, tt := range []struct {
			stdin int
			want  string
		}{{StdinPipe, "pipe"}, {StdinNull, "device"}, {spool, "file"}} {
			c, err := r.try(self("descriptors"), tt.stdin)
			if err != nil {
				t.Fatal(err)
			}
			out, _ := io.ReadAll(c.out.in)
			if want := "0 " + tt.want + " blocking\n1 pipe blocking\n2 pipe blocking\n"; string(out) != want {
				t.Errorf("%q, want %q", out, want)
			}
			c.exited()
			c.close()
		}
		// Start has closed the file.
		if after := descriptors(t); after != before-1 {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		var ends []int
		c := &command{exits: make(chan exit, 1)}
		r.do(func() { _, ends, err = r.sup.Start(shell(":"), StdinPipe, c) })
		if err != nil || len(ends) != 3 {
			t.Fatalf("%v, %v", ends, err)
		}
		for _, fd := range ends {
			if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0); err != nil || fl&unix.O_NONBLOCK == 0 {
				t.Errorf("our end has flags %#o, %v", fl, err)
			}
			if fl, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || fl&unix.FD_CLOEXEC == 0 {
				t.Errorf("our end is not close-on-exec: %#o, %v", fl, err)
			}
		}
		closeAll(ends...)
	})
}

// TestManyDescriptors: a program gets each file as the right descriptor, also if
// the numbers of some are less than those that they get.
func TestManyDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		says, out, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		const n = 40
		files, want := []uintptr{out.Fd()}, ""
		for i := range n {
			f, err := os.CreateTemp(tempDir(t), "")
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(f, i)
			files = append(files, f.Fd())
		}
		slices.Reverse(files[1:])
		for i := range n {
			want += fmt.Sprintln(n - 1 - i)
		}
		if files[n] >= n {
			t.Fatalf("descriptor %d is not less than its index", files[n])
		}
		c := &command{r: r, exits: make(chan exit, 1)}
		r.do(func() { _, err = r.sup.StartOwn(self("contents", fmt.Sprint("N=", n)), c, files...) })
		if err != nil {
			t.Fatal(err)
		}
		out.Close()
		if got, _ := io.ReadAll(says); string(got) != want {
			t.Errorf("%q, want %q", got, want)
		}
		if e := c.exited(); e.status != 0 {
			t.Error(describe(e.status))
		}
	})
}

// TestFileLimit: the command has the soft limit that we were started with, not
// the one to which Go has raised ours.
func TestFileLimit(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		for range 2 {
			c := r.start(shell("ulimit -Sn"))
			if s := c.out.line(); s != "99" {
				t.Errorf("%s, want 99", s)
			}
			c.exited()
		}
		var limit unix.Rlimit
		if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); limit.Cur < 1000 {
			t.Errorf("our own is %d", limit.Cur)
		}
	}, "/bin/sh", "-c", `ulimit -Sn 99; exec "$0" "$@"`)
}

// TestDirectoryAndArguments: the command gets Dir and Args.
func TestDirectoryAndArguments(t *testing.T) {
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		r := newRig(t, options)
		c := r.start(&Command{Path: "/bin/sh", Args: []string{"other name", "-c", `pwd; printf '%s|' "$0" "$@"`, "a b", "", "*"}, Dir: dir})
		real, _ := filepath.EvalSymlinks(dir)
		if out, _ := io.ReadAll(c.out.in); string(out) != real+"\na b||*|" {
			t.Errorf("%q", out)
		}
	})
}

func TestStatuses(t *testing.T) {
	alone(t, func(t *testing.T) {
		r := newRig(t, options)
		for script, want := range map[string]string{"exit 0": "exit 0", "exit 255": "exit 255", "kill -9 $$": "signal 9", "kill -TERM $$": "signal 15"} {
			c := r.start(shell(script))
			if e := c.exited(); describe(e.status) != want || !e.empty {
				t.Errorf("%s: %s, empty: %t", script, describe(e.status), e.empty)
			}
			c.check("exit empty")
		}
	})
}

// TestNoLeaks: a hundred starts leak no zombies and no descriptors.
func TestNoLeaks(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Max, o.Scan = 8, soon
		r := newRig(t, o)
		cmd := &Command{Path: program(t, "true"), Args: []string{"true"}, Dir: "/"}
		c := r.start(cmd)
		c.exited()
		c.close()
		before := descriptors(t)
		for range 12 {
			var all []*command
			for range 8 {
				all = append(all, r.start(cmd))
			}
			for _, c := range all {
				if e := c.exited(); e.status != 0 || !e.empty {
					t.Fatalf("%+v", e)
				}
				c.close()
			}
		}
		r.until("the supervisor to be idle", r.sup.Idle)
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		r.do(func() {
			if list := descendants(); len(list) != 0 || len(r.loop.timers) != 0 || len(r.loop.procs) != 0 {
				t.Errorf("left: children %v, %d timers, %d watched", list, len(r.loop.timers), len(r.loop.procs))
			}
		})
	})
}

// TestStartFails: Start returns the errno and leaks nothing.
func TestStartFails(t *testing.T) {
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		os.WriteFile(dir+"/noexec", []byte("#!/bin/sh\n"), 0o600)
		os.WriteFile(dir+"/format", []byte("\x00\x01\x02"), 0o700)
		os.WriteFile(dir+"/interpreter", []byte("#!/nonexistent/sh\n"), 0o700)
		ok := program(t, "true")
		r := newRig(t, options)
		for _, tt := range []struct {
			path, dir string
			want      error
		}{
			{dir + "/missing", "/", syscall.ENOENT}, {dir + "/noexec", "/", syscall.EACCES}, {dir + "/format", "/", syscall.ENOEXEC},
			{dir + "/interpreter", "/", syscall.ENOENT}, {dir, "/", syscall.EACCES}, {ok, dir + "/missing", syscall.ENOENT}, {ok, ok, syscall.ENOTDIR},
		} {
			before := descriptors(t)
			for _, stdin := range []int{StdinPipe, StdinNull} {
				if _, err := r.try(&Command{Path: tt.path, Args: []string{"x"}, Dir: tt.dir}, stdin); err != tt.want {
					t.Errorf("%s in %s: %v, want %v", tt.path, tt.dir, err, tt.want)
				}
			}
			spool, _ := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
			r.try(&Command{Path: tt.path, Args: []string{"x"}, Dir: tt.dir}, spool)
			if after := descriptors(t); after != before {
				t.Errorf("%s: %d descriptors, then %d", tt.path, before, after)
			}
		}
		for arg, want := range map[string]error{strings.Repeat("x", 4<<20): syscall.E2BIG, "\x00": syscall.EINVAL} {
			if _, err := r.try(&Command{Path: ok, Args: []string{"x", arg}, Dir: "/"}, StdinNull); err != want {
				t.Errorf("an argument of %d bytes: %v, want %v", len(arg), err, want)
			}
		}
		r.do(func() {
			if !r.sup.Idle() {
				t.Error("not idle")
			}
			if list := descendants(); len(list) != 0 {
				t.Errorf("descendants %v", list)
			}
		})
	})
}

// setLimit exists because the type of a limit differs between systems.
func setLimit[T int64 | uint64](p *T, n int) { *p = T(n) }

// TestNoDescriptors: for each number of free descriptors a start either works or
// fails with EMFILE, and leaks nothing.
func TestNoDescriptors(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Scan = soon
		r := newRig(t, o)
		cmd := &Command{Path: program(t, "true"), Args: []string{"true"}, Dir: "/"}
		c := r.start(cmd)
		c.exited()
		c.close()
		r.until("the supervisor to be idle", r.sup.Idle)
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
			setLimit(&lim.Cur, free+n)
			c := &command{r: r, exits: make(chan exit, 1)}
			var ends []int
			r.do(func() {
				unix.Setrlimit(unix.RLIMIT_NOFILE, &lim)
				_, ends, err = r.sup.Start(cmd, StdinPipe, c)
				unix.Setrlimit(unix.RLIMIT_NOFILE, &old)
			})
			switch {
			case err != nil:
				fails++
				if err != syscall.EMFILE {
					t.Errorf("%d free: %v", n, err)
				}
			default:
				works++
				closeAll(ends...)
				if e := c.exited(); e.status != 0 {
					t.Errorf("%d free: %s", n, describe(e.status))
				}
			}
			r.until("the supervisor to be idle", r.sup.Idle)
			if after := descriptors(t); after != before {
				t.Fatalf("%d free: %d descriptors, then %d", n, before, after)
			}
		}
		if fails == 0 || works == 0 {
			t.Errorf("%d failed, %d worked", fails, works)
		}
	})
}

// TestNoProcesses: EAGAIN at the limit of processes (RLIMIT_NPROC).
func TestNoProcesses(t *testing.T) {
	alone(t, func(t *testing.T) {
		if os.Getuid() == 0 { // root is exempt from the limit
			if err := syscall.Setgid(65534); err != nil {
				t.Fatal(err)
			}
			if err := syscall.Setuid(65534); err != nil {
				t.Fatal(err)
			}
		}
		r := newRig(t, options)
		cmd := &Command{Path: program(t, "true"), Args: []string{"true"}, Dir: "/"}
		before := descriptors(t)
		// Threads count too. Make threads that Go can use later.
		// Their goroutines have exited, or else the threads are not idle yet.
		var locked, exited sync.WaitGroup
		locked.Add(16)
		for range 16 {
			exited.Go(func() {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				locked.Done()
				locked.Wait()
			})
		}
		exited.Wait()
		var old unix.Rlimit
		unix.Getrlimit(unix.RLIMIT_NPROC, &old)
		unix.Setrlimit(unix.RLIMIT_NPROC, &unix.Rlimit{Cur: 1, Max: old.Max})
		_, err := r.try(cmd, StdinPipe)
		unix.Setrlimit(unix.RLIMIT_NPROC, &old)
		if err != syscall.EAGAIN {
			t.Errorf("%v", err)
		}
		if after := descriptors(t); after > before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
		c := r.start(cmd)
		if e := c.exited(); e.status != 0 {
			t.Errorf("later: %s", describe(e.status))
		}
	})
}

// TestMonitorKilled: commands are killed when the monitor is.
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
	r.SetReadDeadline(time.Now().Add(bound))
	in := make([]byte, 1)
	if _, err := io.ReadFull(r, in); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	// The pipe is at end of file when no process holds it.
	if _, err := io.ReadAll(r); err != nil {
		t.Errorf("the command still runs: %v", err)
	}
}

func init() {
	// descriptors lists the open descriptors.
	roles["descriptors"] = func() int {
		list := ""
		for fd := range 4096 {
			flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
			if err != nil {
				continue
			}
			var st unix.Stat_t
			unix.Fstat(fd, &st)
			kind := map[uint32]string{unix.S_IFIFO: "pipe", unix.S_IFCHR: "device", unix.S_IFREG: "file"}[uint32(st.Mode)&unix.S_IFMT]
			if kind == "" || kind == "file" && fd > 0 {
				continue // this program's own poller and cgroup files
			}
			list += fmt.Sprintln(fd, kind, map[bool]string{true: "blocking", false: "non-blocking"}[flags&unix.O_NONBLOCK == 0])
		}
		unix.Write(1, []byte(list))
		return 0
	}
	// contents writes what descriptors 3 to N+2 have from their beginning.
	roles["contents"] = func() int {
		n, err := strconv.Atoi(os.Getenv("N"))
		for fd := 3; fd < n+3; fd++ {
			b := make([]byte, 16)
			k, e := unix.Pread(fd, b, 0)
			if e != nil {
				err = e
			}
			unix.Write(2, b[:max(k, 0)])
		}
		if err != nil {
			return 1
		}
		return 0
	}
	// stderr writes to standard error.
	roles["stderr"] = func() int {
		if DefaultSignals() != nil {
			return 1
		}
		os.Stderr.WriteString("x")
		fmt.Println("alive")
		return 0
	}
	// monitor starts a command and waits to be killed.
	roles["monitor"] = func() int {
		runtime.LockOSThread()
		null, _ := os.OpenFile("/dev/null", os.O_RDWR, 0)
		_, _, err := start(&Command{Path: "/bin/sh", Args: []string{"sh", "-c", "trap '' TERM HUP; echo; exec sleep 60"}, Dir: "/", Env: []string{"PATH=/bin:/usr/bin"}}, null.Fd(), 1, 2)
		if err != nil {
			return 1
		}
		time.Sleep(time.Minute)
		return 0
	}
}

// TestBrokenStderr: a write to a closed stderr does not kill us.
func TestBrokenStderr(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "OW_ROLE=stderr")
	cmd.Stderr = w
	out, err := cmd.Output()
	w.Close()
	if string(out) != "alive\n" || err != nil {
		t.Errorf("%q, %v", out, err)
	}
}

// TestSpool: the file has no name, and a command reads it from the beginning.
func TestSpool(t *testing.T) {
	alone(t, func(t *testing.T) {
		dir := tempDir(t)
		r := newRig(t, options)
		before := descriptors(t)
		w, in, err := NewSpool(dir)
		if err != nil {
			t.Fatal(err)
		}
		names, _ := os.ReadDir(dir)
		var st unix.Stat_t
		unix.Fstat(in, &st)
		if len(names) != 0 || st.Nlink != 0 || st.Mode&0o7777 != 0o600 {
			t.Errorf("names %v, %d links, mode %#o", names, st.Nlink, st.Mode)
		}
		for _, fd := range []int{w, in} {
			if fl, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); fl&unix.FD_CLOEXEC == 0 {
				t.Error("not close-on-exec")
			}
		}
		if runtime.GOOS == "freebsd" {
			if _, err := unix.Read(w, make([]byte, 1)); err == nil {
				t.Error("the descriptor for writing can be read")
			}
			if unix.Fstat(w, &st) == nil {
				t.Error("the descriptor for writing can be used for fstat")
			}
			if _, err := unix.Seek(w, 0, io.SeekStart); err == nil {
				t.Error("the descriptor for writing can be used for lseek")
			}
		}
		for _, s := range []string{"hello, ", "world\n"} {
			if n, err := unix.Write(w, []byte(s)); n != len(s) || err != nil {
				t.Error(n, err)
			}
		}
		c, err := r.try(shell("cat"), in)
		if err != nil {
			t.Fatal(err)
		}
		if s := c.out.line(); s != "hello, world" {
			t.Errorf("%q", s)
		}
		c.exited()
		c.close()
		closeAll(w)
		if _, _, err := NewSpool(dir + "/missing"); !os.IsNotExist(err) {
			t.Error(err)
		}
		if after := descriptors(t); after != before {
			t.Errorf("%d descriptors, then %d", before, after)
		}
	})
}

// TestTurns: at most Max commands run at once, and Ask is first come, first
// served.
func TestTurns(t *testing.T) {
	alone(t, func(t *testing.T) {
		o := options
		o.Max = 2
		r := newRig(t, o)
		var order []string
		ask := func(name string) (turn *Turn) {
			turn = r.sup.Ask(func(err error) {
				order = append(order, fmt.Sprint(name, " ", err))
				if err == nil {
					_, ends, err := r.sup.Start(shell("read x"), StdinPipe, &command{exits: make(chan exit, 2)})
					closeAll(ends[:2]...)
					if err != nil {
						panic(err)
					}
				}
			})
			return turn
		}
		a, b := r.start(shell("read x")), r.start(shell("read x"))
		r.do(func() {
			ask("first")
			second := ask("second")
			ask("third")
			if !second.Cancel() || second.Cancel() {
				t.Error("Cancel does not report true once")
			}
			ask("fourth")
			if len(order) != 0 {
				t.Errorf("%v exceed the limit", order)
			}
		})
		a.say("")
		a.exited()
		r.do(func() {
			if !slices.Equal(order, []string{"first <nil>"}) || r.sup.Running() != 2 {
				t.Errorf("%v, %d running", order, r.sup.Running())
			}
			// A turn whose command is not started frees the slot.
			r.sup.queue[0].f = func(error) { order = append(order, "does not start") }
		})
		b.say("")
		b.exited()
		r.do(func() {
			r.sup.TerminateAll()
			r.sup.Ask(func(err error) { order = append(order, fmt.Sprint("late ", err)) })
			if want := []string{"first <nil>", "does not start", "fourth <nil>", "late " + unix.ECANCELED.Error()}; !slices.Equal(order, want) {
				t.Errorf("%q, want %q", order, want)
			}
		})
	})
}
