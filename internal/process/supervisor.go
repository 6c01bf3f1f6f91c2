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

// Command is what is started.
type Command struct {
	Path string   // absolute
	Args []string // argv, the command's name first
	Dir  string   // working directory
	Env  []string // the whole environment, NAME=VALUE
}

// Options of a [Supervisor].
type Options struct {
	Max       int           // how many commands there may be at once
	Timeout   time.Duration // of a command, from its start
	KillAfter time.Duration // from SIGTERM to SIGKILL
	Look      time.Duration // how often strays are looked for; 1 s if 0
}

// What [Supervisor.Start] takes in place of a descriptor.
const (
	StdinNull = -1 // /dev/null
	StdinPipe = -2 // a pipe of its own
)

// A Handler is told what becomes of a group. It is called from the loop, before
// the group's place is given to another.
type Handler interface {
	// OnExit is called once, when the program has ended; over tells that it
	// has left nothing behind.
	OnExit(status syscall.WaitStatus, over bool)
	// OnOver is called once, later, if over was false: what it had left
	// behind is gone.
	OnOver()
}

// Supervisor starts commands and sees to their end. It belongs to its loop's
// goroutine.
type Supervisor struct {
	loop *Loop
	log  *slog.Logger
	o    Options

	null    int
	groups  map[int]*Group // by number, until they are over
	running int            // of these, commands
	queue   []*Turn
	ending  bool // no command is started any more

	inherited map[int]bool // children that we had before this program was executed
	strays    map[int]*stray
	looking   *Timer // nil if there is nothing that could leave strays
}

// NewSupervisor makes a supervisor, and this process the reaper of its
// descendants (see [sandbox.AcquireReaper]).
func NewSupervisor(l *Loop, log *slog.Logger, o Options) (*Supervisor, error) {
	if err := sandbox.AcquireReaper(); err != nil {
		return nil, err
	}
	null, err := unix.Open(os.DevNull, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: os.DevNull, Err: err}
	}
	if o.Look == 0 {
		o.Look = time.Second
	}
	s := &Supervisor{
		loop: l, log: log, o: o, null: null,
		groups:    make(map[int]*Group),
		inherited: make(map[int]bool),
		strays:    make(map[int]*stray),
	}
	for _, c := range children() {
		s.inherited[c.pid] = true
	}
	return s, nil
}

// Running tells how many commands there are, with what is left of those that
// have ended.
func (s *Supervisor) Running() int { return s.running }

// Idle tells whether nothing that was started is left, strays included.
func (s *Supervisor) Idle() bool {
	return len(s.groups) == 0 && len(s.strays) == 0 && s.looking == nil
}

// EndAll ends all commands and strays: SIGTERM now, SIGKILL after KillAfter. No
// command is started from then on.
func (s *Supervisor) EndAll() {
	s.ending = true
	s.next()
	for _, g := range s.groups {
		if !g.own {
			g.End("service ending")
		}
	}
	s.look()
}

// KillAll ends everything at once, [Supervisor.StartOwn]'s too, and what is born
// meanwhile, until the supervisor is idle.
func (s *Supervisor) KillAll() {
	s.o.KillAfter = 0
	s.EndAll()
	for _, g := range s.groups {
		g.Kill()
	}
}

// A Turn is a place in the queue of those that wait to start a command.
type Turn struct {
	s *Supervisor
	f func(error)
}

// Ask has f called as soon as one more command may be started: at once if it
// may be now and nobody else waits, else in the order of asking. Two cores that
// take over from each other each keep to the limit; here both together do. The
// error is ECANCELED if the service ends.
func (s *Supervisor) Ask(f func(error)) *Turn {
	t := &Turn{s, f}
	s.queue = append(s.queue, t)
	s.next()
	return t
}

// Cancel gives the place up, and tells whether f was still to be called; it is
// not called any more.
func (t *Turn) Cancel() bool {
	i := slices.Index(t.s.queue, t)
	if i < 0 {
		return false
	}
	t.s.queue = slices.Delete(t.s.queue, i, i+1)
	return true
}

// next calls those whose turn it is.
func (s *Supervisor) next() {
	for len(s.queue) > 0 && (s.ending || s.running < s.o.Max) {
		t := s.queue[0]
		s.queue = slices.Delete(s.queue, 0, 1)
		if s.ending {
			t.f(unix.ECANCELED)
		} else {
			t.f(nil)
		}
	}
}

// Start starts a command. stdin is a file's descriptor, which is closed in any
// case, or StdinNull or StdinPipe. ends are the other ends of its pipes, non-blocking:
// stdout, stderr and, of StdinPipe, stdin. Whatever fails leaves nothing behind.
// How many there may be is for [Supervisor.Ask] to say.
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
		// Only the core's ends: the command's are another open file.
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
	g = &Group{s: s, h: h, pid: pid, handle: handle}
	s.running++
	s.watch(g)
	if s.looking == nil {
		s.looking = s.loop.After(s.o.Look, s.look)
	}
	g.timer = s.loop.After(s.o.Timeout, func() {
		g.timedOut = true
		g.End("timeout")
	})
	return g, ends, nil
}

// StartOwn starts a program that is a part of this service and no command: it
// holds no place and has no timeout, and when it ends, all that it leaves is
// killed at once. It gets /dev/null as its standard input and output, and files
// from 2 on.
func (s *Supervisor) StartOwn(c *Command, h Handler, files ...uintptr) (*Group, error) {
	null := uintptr(s.null)
	pid, handle, err := start(c, append([]uintptr{null, null}, files...)...)
	if err != nil {
		return nil, err
	}
	g := &Group{s: s, h: h, pid: pid, handle: handle, own: true}
	s.watch(g)
	return g, nil
}

// watch takes on a group whose program has just been started.
func (s *Supervisor) watch(g *Group) {
	old := s.groups[g.pid]
	s.groups[g.pid] = g
	if old != nil {
		// All of it had left the process group, so that its number was free.
		old.h.OnOver()
		old.remove()
	}
	s.loop.WatchProcess(g.pid, g.handle, g.exited)
}
