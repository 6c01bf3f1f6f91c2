package process

import (
	"os"
	"slices"
	"time"

	"golang.org/x/sys/unix"
)

// maxWait is how long the poller waits at most: its argument has fewer bits
// than a time.Duration, and a longer timer just takes more turns.
const maxWait = time.Hour

// Loop is the monitor's event loop: one goroutine, which should be locked to
// its thread, waits for descriptors, for processes to end, for the clock and
// for [Loop.Post]. Everything that it calls runs on that goroutine, so that
// nothing of the monitor needs a lock. All methods but Post are for it alone.
type Loop struct {
	p      poller
	fds    map[int]func(readable, writable bool)
	procs  map[int]func()
	timers []*Timer // the next one first
	posted chan func()
	wakeR  int
	wakeW  int
	ended  bool
}

// event is what a poller reports.
type event struct {
	id       int // descriptor, or pid
	process  bool
	readable bool
	writable bool
}

// NewLoop makes a loop.
func NewLoop() (*Loop, error) {
	l := &Loop{
		fds:    make(map[int]func(bool, bool)),
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
	l.wakeR, l.wakeW = p[0], p[1]
	for _, fd := range p {
		if err := unix.SetNonblock(fd, true); err != nil {
			return nil, err
		}
	}
	return l, l.Watch(l.wakeR, func(bool, bool) { l.runPosted() })
}

func (l *Loop) runPosted() {
	var b [64]byte
	unix.Read(l.wakeR, b[:])
	for {
		select {
		case f := <-l.posted:
			f()
		default:
			return
		}
	}
}

// Post has f called by the loop. Any goroutine may call it.
func (l *Loop) Post(f func()) {
	l.posted <- f
	unix.Write(l.wakeW, []byte{0})
}

// Watch has f called whenever fd can be read.
func (l *Loop) Watch(fd int, f func(readable, writable bool)) error {
	if err := l.p.add(fd); err != nil {
		return err
	}
	l.fds[fd] = f
	return nil
}

// WatchWrite turns the call for a watched descriptor that can be written on
// or off.
func (l *Loop) WatchWrite(fd int, on bool) error { return l.p.write(fd, on) }

// Unwatch ends Watch. It comes before the descriptor is closed: a copy that a
// child holds for a moment would keep its events alive.
func (l *Loop) Unwatch(fd int) {
	l.p.remove(fd)
	delete(l.fds, fd)
}

// WatchProcess has f called once when a child has ended; it has not been
// reaped then. handle is what [Start] gave for it.
func (l *Loop) WatchProcess(pid, handle int, f func()) {
	l.procs[pid] = f
	if l.p.process(pid, handle) != nil {
		l.After(0, func() { l.lookAfter(pid) })
	}
}

// lookAfter asks again and again whether a process has ended that the poller
// cannot watch: for want of memory, or since it does not see it.
func (l *Loop) lookAfter(pid int) {
	if !ended(pid) {
		l.After(10*time.Millisecond, func() { l.lookAfter(pid) })
		return
	}
	l.exited(pid)
}

func (l *Loop) exited(pid int) {
	if f := l.procs[pid]; f != nil {
		delete(l.procs, pid)
		f()
	}
}

// End makes Run return.
func (l *Loop) End() { l.ended = true }

// Run calls what is due until [Loop.End].
func (l *Loop) Run() error {
	var events []event
	for !l.ended {
		var err error
		events, err = l.p.wait(events[:0], l.patience())
		if err != nil {
			return err
		}
		for _, e := range events {
			if e.process {
				l.exited(e.id)
			} else if f := l.fds[e.id]; f != nil {
				f(e.readable, e.writable)
			}
		}
		for len(l.timers) > 0 && !l.ended && !time.Now().Before(l.timers[0].when) {
			t := l.timers[0]
			l.timers = slices.Delete(l.timers, 0, 1)
			t.f()
		}
	}
	return nil
}

// patience is how long the poller may wait.
func (l *Loop) patience() time.Duration {
	if len(l.timers) == 0 {
		return maxWait
	}
	return min(max(0, time.Until(l.timers[0].when)), maxWait)
}

// A Timer is a call that is due at some time.
type Timer struct {
	loop *Loop
	when time.Time
	f    func()
}

// After has f called once when d has passed.
func (l *Loop) After(d time.Duration, f func()) *Timer {
	t := &Timer{l, time.Now().Add(d), f}
	// Most are due later than all others, and most are called off.
	i := len(l.timers)
	for i > 0 && l.timers[i-1].when.After(t.when) {
		i--
	}
	l.timers = slices.Insert(l.timers, i, t)
	return t
}

// Stop calls the call off. A nil timer, or one that is over, is let be.
func (t *Timer) Stop() {
	if t == nil {
		return
	}
	if i := slices.Index(t.loop.timers, t); i >= 0 {
		t.loop.timers = slices.Delete(t.loop.timers, i, i+1)
	}
}
