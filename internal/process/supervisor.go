package process

import (
	"io"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/sandbox"
)

// Command is a program to start.
type Command struct {
	Path string   // absolute
	Args []string // argv, including argv[0]
	Dir  string   // working directory, absolute
	Env  []string // whole environment, NAME=VALUE
}

// Options of a [Supervisor].
type Options struct {
	Max       int           // slots, that is, commands at once
	Timeout   time.Duration // of a command, from its start
	KillAfter time.Duration // from SIGTERM to SIGKILL
	Scan      time.Duration // interval of scans for orphans; 1 s if 0
}

// Values for the stdin of [Supervisor.Start] in place of a descriptor.
const (
	StdinNull = -1 // /dev/null
	StdinPipe = -2 // a new pipe
)

// Handler is notified by a group. Its methods are called on the loop, before
// the group's slot is free.
type Handler interface {
	// OnExit is called once, when the program has exited. empty reports that
	// there are no leftovers.
	OnExit(status syscall.WaitStatus, empty bool)
	// OnEmpty is called once, later, if there were: now there are none.
	OnEmpty()
}

// Supervisor starts, reaps and terminates commands. It must be used on its
// loop's goroutine only.
type Supervisor struct {
	loop *Loop
	log  *slog.Logger
	o    Options

	null     int
	groups   map[int]*Group // not empty ones, by number
	running  int            // slots in use
	queue    []*Turn
	stopping bool // no more commands are started

	inherited map[int]bool // children from before this program was executed
	nextScan  *Timer       // nil if there is nothing to scan for
}

// NewSupervisor makes a supervisor. It also makes this process the reaper of its
// descendants (see [sandbox.AcquireReaper]).
func NewSupervisor(l *Loop, log *slog.Logger, o Options) (*Supervisor, error) {
	if err := sandbox.AcquireReaper(); err != nil {
		return nil, err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	if o.Scan == 0 {
		o.Scan = time.Second
	}
	s := &Supervisor{
		loop: l, log: log, o: o, null: null,
		groups:    make(map[int]*Group),
		inherited: make(map[int]bool),
	}
	for _, d := range descendants() {
		s.inherited[d.pid] = d.child
	}
	return s, nil
}

// Running is the number of slots in use: commands that run or have leftovers.
func (s *Supervisor) Running() int { return s.running }

// Idle reports whether no process that was started remains, orphans included.
func (s *Supervisor) Idle() bool { return len(s.groups) == 0 && s.nextScan == nil }

// TerminateAll terminates all commands and orphans: SIGTERM now, SIGKILL after
// Options.KillAfter. No command is started from then on.
func (s *Supervisor) TerminateAll() {
	s.stopping = true
	s.runQueue()
	for _, g := range s.groups {
		if !g.own {
			g.Terminate("service ending")
		}
	}
	s.scanAfter(0)
}

// KillAll kills all processes at once, including those of StartOwn, and, until
// the supervisor is idle, those that are forked meanwhile.
func (s *Supervisor) KillAll() {
	s.o.KillAfter = 0
	s.TerminateAll()
	for _, g := range s.groups {
		g.Kill()
	}
}

// Turn is a place in the queue for a slot.
type Turn struct {
	s *Supervisor
	f func(error)
}

// Ask calls f when a slot is free, first come, first served; at once if one is
// free now. The error is ECANCELED if the service is stopping. The queue is here
// and not in the core because during a reload two cores share the slots.
func (s *Supervisor) Ask(f func(error)) *Turn {
	t := &Turn{s, f}
	s.queue = append(s.queue, t)
	s.runQueue()
	return t
}

// Cancel leaves the queue. It reports false if f has been called already.
func (t *Turn) Cancel() bool {
	i := slices.Index(t.s.queue, t)
	if i < 0 {
		return false
	}
	t.s.queue = slices.Delete(t.s.queue, i, i+1)
	return true
}

// runQueue gives free slots to the queue.
func (s *Supervisor) runQueue() {
	for len(s.queue) > 0 && (s.stopping || s.running < s.o.Max) {
		t := s.queue[0]
		s.queue = slices.Delete(s.queue, 0, 1)
		var err error
		if s.stopping {
			err = unix.ECANCELED
		}
		t.f(err)
	}
}

// Start starts a command. The caller has got its slot by [Supervisor.Ask]. stdin
// is a descriptor, which Start closes in any case, or StdinNull or StdinPipe.
// ends are our ends of the command's pipes, non-blocking: stdout, stderr and,
// for StdinPipe, stdin.
func (s *Supervisor) Start(c *Command, stdin int, h Handler) (g *Group, ends []int, err error) {
	var in, out, errs = [2]int{stdin, -1}, [2]int{-1, -1}, [2]int{-1, -1}
	pid, handle := 0, -1
	err = pipe(&out)
	if err == nil {
		err = pipe(&errs)
	}
	if err == nil && stdin == StdinPipe {
		err = pipe(&in)
	} else if err == nil && stdin >= 0 {
		_, err = unix.Seek(stdin, 0, io.SeekStart)
	}
	ends = []int{out[0], errs[0]}
	if stdin == StdinPipe {
		ends = append(ends, in[1])
	}
	for i := 0; i < len(ends) && err == nil; i++ {
		// The command's ends have file status flags of their own and still block.
		unix.FcntlInt(uintptr(ends[i]), unix.F_SETFL, unix.O_NONBLOCK)
		err = limitEnd(ends[i], i == 2)
	}
	if err == nil {
		fd := in[0]
		if stdin == StdinNull {
			fd = s.null
		}
		pid, handle, err = start(c, uintptr(fd), uintptr(out[1]), uintptr(errs[1]))
	}
	closeAll(in[0], out[1], errs[1])
	if err != nil {
		closeAll(ends...)
		return nil, nil, err
	}
	s.running++
	g = s.watch(&Group{h: h, pid: pid, handle: handle})
	if s.nextScan == nil {
		s.scanAfter(s.o.Scan)
	}
	g.terminateAfter(s.o.Timeout)
	return g, ends, nil
}

// StartOwn starts a program that is part of this service. It uses no slot and
// has no timeout. When it exits, its leftovers are killed at once. Its stdin and
// stdout are /dev/null, and files are its descriptors from 2 on.
func (s *Supervisor) StartOwn(c *Command, h Handler, files ...uintptr) (*Group, error) {
	null := uintptr(s.null)
	pid, handle, err := start(c, append([]uintptr{null, null}, files...)...)
	if err != nil {
		return nil, err
	}
	return s.watch(&Group{h: h, pid: pid, handle: handle, own: true}), nil
}

// watch adds a group.
func (s *Supervisor) watch(g *Group) *Group {
	old := s.groups[g.pid]
	g.s, s.groups[g.pid] = s, g
	if old != nil {
		// The number was free, so no process was left in the old process group.
		old.h.OnEmpty()
		old.remove()
	}
	s.loop.WatchProcess(g.pid, g.handle, g.onExit)
	return g
}
