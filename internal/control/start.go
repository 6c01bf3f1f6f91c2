package control

import (
	"context"
	"errors"
	"os"
	"syscall"
)

// Stdin is what a command gets as its standard input: None, Pipe, or a
// [*Spool].
type Stdin interface{ stdin() byte }

type plain byte

func (p plain) stdin() byte { return byte(p) }

// What else than a file can be a command's standard input.
const (
	None plain = stdinNone // /dev/null; so is a nil Stdin
	Pipe plain = stdinPipe // a pipe, whose other end is [Process.Stdin]
)

// Start is one request for a process.
type Start struct {
	Script string // name in the table of scripts, or ""
	Vars   *Vars  // can be used again when [Client.Start] has returned
	Stdin  Stdin
}

// NoScript is what [PeerOptions.Command] fails with for a script that cannot be
// run any more. It is not ENOENT: so fails a start where only the interpreter is
// not there.
const NoScript = syscall.ESRCH

// A Process is one command that has been started.
type Process struct {
	ID uint64 // of the request, for the log
	// Our ends of the pipes. They are the caller's to close. Stdin is nil
	// unless a pipe was asked for.
	Stdin, Stdout, Stderr *os.File

	c      *Client
	pipe   bool
	ready  chan error // how the start went
	exited chan struct{}
	over   chan struct{}

	// Of Client.mu, and then of whoever has seen exited closed.
	state    state
	status   Status
	timedOut bool
	err      error
}

type state uint8

const (
	asked state = iota
	running
	exited
)

// errLost: it runs, but there was no room for its descriptors.
var errLost = errors.New("descriptors lost")

// Start has the monitor start a command, and waits until it has been started
// or has failed: for want of a slot it may wait for long. If ctx ends meanwhile
// the monitor is told to give it up or end it, and what it says is still waited
// for: an error means that nothing is running, so that the slot is free. Where
// ctx has ended too late there is a process, which is being ended.
//
// An error is the cause of ctx, a [syscall.Errno] (ECANCELED if the service
// ends; see also [IsTemporary]), or [ErrGone].
func (c *Client) Start(ctx context.Context, s Start) (*Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p := newProcess(c)
	if err := c.ask(p, s); err != nil {
		return nil, err
	}
	var err error
	select {
	case err = <-p.ready:
	case <-ctx.Done():
		p.End()
		err = <-p.ready
	}
	switch {
	case err == nil:
		return p, nil
	case err == errLost:
		<-p.over
		return nil, syscall.EMFILE
	case err == syscall.ECANCELED && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	}
	return nil, err
}

func newProcess(c *Client) *Process {
	return &Process{c: c, ready: make(chan error, 1), exited: make(chan struct{}), over: make(chan struct{})}
}

func (c *Client) ask(p *Process, s Start) error {
	stdin, vars := byte(stdinNone), []byte(nil)
	if s.Stdin != nil {
		stdin = s.Stdin.stdin()
	}
	if s.Vars != nil {
		vars = s.Vars.b
	}
	p.pipe = stdin == stdinPipe
	c.mu.Lock()
	defer c.mu.Unlock()
	if spool, ok := s.Stdin.(*Spool); ok {
		if spool.used {
			return errors.New("spool file used twice")
		}
		spool.used = true
		p.ID = spool.id
	} else {
		c.lastID++
		p.ID = c.lastID
	}
	err := c.write(msgStart, p.ID, []byte{stdin}, []byte(s.Script), []byte{0}, vars)
	if err == nil {
		c.procs[p.ID] = p
	}
	return err
}

// handle does what the monitor says about p; false if it cannot say so now.
// It wants Client.mu.
func (p *Process) handle(k kind, value uint32, flags byte, fds []int) bool {
	switch {
	case k == msgStarted && p.state == asked:
		p.state = running
		p.ready <- p.files(fds)
		return true
	case len(fds) > 0:
	case k == msgFailed && p.state == asked:
		delete(p.c.procs, p.ID)
		p.ready <- syscall.Errno(value)
		return true
	case k == msgExited && p.state == running:
		over := flags&exitOver != 0
		if over {
			delete(p.c.procs, p.ID)
		}
		p.exit(Status(value), flags&exitTimedOut != 0, over, nil)
		return true
	case k == msgOver && p.state == exited:
		delete(p.c.procs, p.ID)
		close(p.over)
		return true
	}
	return false
}

// files makes the pipes of what has come. If it is not what was to come nobody
// would read what the command says: it is ended.
func (p *Process) files(fds []int) error {
	want := 2
	if p.pipe {
		want = 3
	}
	if len(fds) != want {
		closeAll(fds...)
		p.c.write(msgEnd, p.ID)
		return errLost
	}
	p.Stdout, p.Stderr = os.NewFile(uintptr(fds[0]), "stdout"), os.NewFile(uintptr(fds[1]), "stderr")
	if p.pipe {
		p.Stdin = os.NewFile(uintptr(fds[2]), "stdin")
	}
	return nil
}

func (p *Process) exit(st Status, timedOut, over bool, err error) {
	p.state, p.status, p.timedOut, p.err = exited, st, timedOut, err
	if over { // first, so that who sees the exit can give the slot to another
		close(p.over)
	}
	close(p.exited)
}

// gone: nobody will say any more what becomes of p.
func (p *Process) gone(err error) {
	switch p.state {
	case asked:
		p.ready <- err
	case running:
		p.exit(Status(syscall.SIGKILL), false, true, err)
	case exited:
		close(p.over)
	}
}

// Exited is closed when the command has ended, or the monitor is gone.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// Over is closed when nothing of the request is left, in the background
// neither: its slot is free. If nothing is left by the command's end, it is
// closed by the time that Exited is.
func (p *Process) Over() <-chan struct{} { return p.over }

// Status tells how the command ended. It holds once Exited is closed. If the
// monitor is gone it is death by SIGKILL, and Err says so.
func (p *Process) Status() Status { return p.status }

// TimedOut tells whether the monitor ended the command because its timeout had
// passed, which it sees to by itself. It holds once Exited is closed.
func (p *Process) TimedOut() bool { return p.timedOut }

// Err is [ErrGone] if the monitor was gone before it told how the command
// ended, else nil. It holds once Exited is closed.
func (p *Process) Err() error { return p.err }

// End has the monitor end the request's processes: SIGTERM now, SIGKILL later.
// It may be called at any time and more than once.
func (p *Process) End() { p.c.send(msgEnd, p.ID) }

// A Spool is a file that can only be written, and then given to a command as
// its standard input, which reads it from its beginning.
type Spool struct {
	*os.File

	c    *Client
	id   uint64
	used bool // of Client.mu
}

func (s *Spool) stdin() byte { return stdinSpool }

type spooled struct {
	fd  int
	err error
}

// Spool asks the monitor for a file to keep a body in, which has no name. Its
// error is as that of [Client.Start].
func (c *Client) Spool() (*Spool, error) {
	ch := make(chan spooled, 1)
	c.mu.Lock()
	c.lastID++
	id := c.lastID
	err := c.write(msgSpool, id)
	if err == nil {
		c.spools[id] = ch
	}
	c.mu.Unlock()
	if err != nil {
		return nil, err
	}
	s := <-ch
	if s.err != nil {
		return nil, s.err
	}
	return &Spool{File: os.NewFile(uintptr(s.fd), "spool"), c: c, id: id}, nil
}

// spooled is what the monitor has answered. It wants Client.mu.
func (c *Client) spooled(f frame, value uint32, fds []int) spooled {
	switch {
	case f.kind == msgNoSpool:
		closeAll(fds...)
		return spooled{err: syscall.Errno(value)}
	case len(fds) != 1:
		closeAll(fds...)
		c.write(msgEnd, f.id)
		return spooled{err: syscall.EMFILE}
	}
	return spooled{fd: fds[0]}
}

// Forget closes the file and, unless it has been given to [Client.Start], has
// the monitor close its own. It is called once, whatever became of the file.
func (s *Spool) Forget() {
	s.File.Close()
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	if !s.used {
		s.used = true
		s.c.write(msgEnd, s.id)
	}
}
