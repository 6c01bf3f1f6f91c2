package process

import (
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxWait is the longest wait of the poller. Its argument has fewer bits than a
// time.Duration; a longer timer takes several waits.
const maxWait = time.Hour

// Loop is the event loop of the monitor. It waits for descriptors, exits of
// processes, timers and [Loop.Post] on one goroutine, which should be locked to
// its thread. It calls all functions on that goroutine, so the monitor needs no
// locks. Only Post may be called from other goroutines.
type Loop struct {
	p       poller
	fds     map[int]func()
	procs   map[int]func()
	timers  []*Timer // sorted by time
	posted  chan func()
	wake    int // the loop wakes for each byte that is written here
	stopped bool
}

// NewLoop makes a loop.
func NewLoop() (*Loop, error) {
	l := &Loop{
		fds:    make(map[int]func()),
		procs:  make(map[int]func()),
		posted: make(chan func(), 64),
	}
	if err := l.p.open(); err != nil {
		return nil, err
	}
	var p [2]int
	if err := pipe(&p); err != nil {
		return nil, os.NewSyscallError("pipe2", err)
	}
	l.wake = p[1]
	return l, l.Watch(p[0], func() {
		unix.Read(p[0], make([]byte, 1))
		(<-l.posted)()
	})
}

// Post calls f on the loop's goroutine. Any goroutine may call Post.
func (l *Loop) Post(f func()) {
	l.posted <- f
	unix.Write(l.wake, []byte{0}) // does not block: the pipe has more room than posted
}

// Watch calls f whenever fd is readable.
func (l *Loop) Watch(fd int, f func()) error {
	if err := l.p.add(fd); err != nil {
		return err
	}
	l.fds[fd] = f
	return nil
}

// Unwatch undoes Watch. It must be called before fd is closed: a child that is
// just being started may hold a copy, which would keep the events alive.
func (l *Loop) Unwatch(fd int) {
	l.p.remove(fd)
	delete(l.fds, fd)
}

// WatchProcess calls f once, when a child has exited. f has to reap it. handle
// comes from [start].
func (l *Loop) WatchProcess(pid, handle int, f func()) {
	l.procs[pid] = f
	if l.p.process(pid, handle) != nil {
		l.After(0, func() { l.pollProcess(pid) })
	}
}

// pollProcess is for a process that the poller cannot watch, because memory is
// short or the process is hidden from us.
func (l *Loop) pollProcess(pid int) {
	if !hasExited(pid) {
		l.After(10*time.Millisecond, func() { l.pollProcess(pid) })
		return
	}
	l.processExited(pid)
}

// Stop makes Run return.
func (l *Loop) Stop() { l.stopped = true }

// ready and processExited are called by the poller.
func (l *Loop) ready(fd int) {
	if f := l.fds[fd]; f != nil {
		f()
	}
}

func (l *Loop) processExited(pid int) {
	if f := l.procs[pid]; f != nil {
		delete(l.procs, pid)
		f()
	}
}

// Run runs the loop until [Loop.Stop].
func (l *Loop) Run() error {
	for !l.stopped {
		if err := l.p.wait(l.timeout(), l); err != nil {
			return err
		}
		for len(l.timers) > 0 && !l.stopped && !time.Now().Before(l.timers[0].when) {
			t := l.timers[0]
			l.timers = slices.Delete(l.timers, 0, 1)
			t.f()
		}
	}
	return nil
}

// timeout is how long the poller may wait.
func (l *Loop) timeout() time.Duration {
	if len(l.timers) == 0 {
		return maxWait
	}
	return min(max(0, time.Until(l.timers[0].when)), maxWait)
}

// Timer is a pending call of [Loop.After].
type Timer struct {
	loop *Loop
	when time.Time
	f    func()
}

// After calls f once, after d.
func (l *Loop) After(d time.Duration, f func()) *Timer {
	t := &Timer{l, time.Now().Add(d), f}
	// Search from the end: most timers are later than all others.
	i := len(l.timers)
	for i > 0 && l.timers[i-1].when.After(t.when) {
		i--
	}
	l.timers = slices.Insert(l.timers, i, t)
	return t
}

// Stop cancels the call. It has no effect on a nil timer or one that has fired.
func (t *Timer) Stop() {
	if t == nil {
		return
	}
	if i := slices.Index(t.loop.timers, t); i >= 0 {
		t.loop.timers = slices.Delete(t.loop.timers, i, i+1)
	}
}
