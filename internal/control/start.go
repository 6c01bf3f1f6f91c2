package control

import (
	"context"
	"os"
	"syscall"
)

// NoScript is the error of [PeerOptions.Command] for a script that cannot be run
// any more. It is not ENOENT, which also means a missing interpreter.
const NoScript = syscall.ESRCH

// Start says what to start.
type Start struct {
	Script string // name of a script, empty for the command
	Vars   *Vars  // can be reused when [Client.Start] has returned
	// Standard input: a spool file, which can be used only once, or a pipe. It
	// is /dev/null if neither is set.
	Spool *Spool
	Pipe  bool
}

// A Process is a command that has been started.
type Process struct {
	ID uint64 // number of the request
	// The core's ends of the pipes, which the caller closes. Stdin is nil
	// unless Start.Pipe was set.
	Stdin, Stdout, Stderr *os.File

	// Exited is closed when the command has exited or the connection to the
	// monitor is lost. Over is closed when no process of the request is left,
	// including background processes; its slot is then free. If the command
	// leaves none, Over is closed before Exited.
	Exited, Over chan struct{}

	// The following fields are valid once Exited is closed.
	Status   syscall.WaitStatus
	TimedOut bool  // the monitor terminated the command at its timeout
	Err      error // [ErrDisconnected] if Status is not known and set to SIGKILL

	c     *Client
	fds   int        // descriptors that the monitor sends
	reply chan reply // receives one
	state state      // guarded by Client.mu
}

// reply is the monitor's first answer to a request.
type reply struct {
	fds []int // nil if they did not fit into this process
	err error
}

type state uint8

const (
	waiting state = iota // for the reply
	running
	exited
)

// Start asks the monitor to start a command, and waits until it has started or
// failed to start. If no slot is free this can take long. If ctx is canceled in
// the meantime, Start cancels the request and still waits for the monitor's
// reply. So an error always means that no process is running. If the cancellation
// was too late, Start returns a process, which is being terminated.
//
// The error is the cause of ctx, a [syscall.Errno] (ECANCELED if the service
// stops; see also [IsTemporary]), or [ErrDisconnected].
func (c *Client) Start(ctx context.Context, s Start) (*Process, error) {
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	p := &Process{c: c, fds: 2, reply: make(chan reply, 1), Exited: make(chan struct{}), Over: make(chan struct{})}
	stdin, vars := byte(stdinNone), []byte(nil)
	if s.Vars != nil {
		vars = s.Vars.b
	}
	switch {
	case s.Spool != nil:
		stdin, p.ID = stdinSpool, s.Spool.id
		s.Spool.used = true
	case s.Pipe:
		stdin, p.fds = stdinPipe, 3
	}
	if err := p.send(msgStart, []byte{stdin}, []byte(s.Script), []byte{0}, vars); err != nil {
		return nil, err
	}
	var r reply
	select {
	case r = <-p.reply:
	case <-ctx.Done():
		p.Cancel()
		r = <-p.reply
	}
	switch {
	case r.err == syscall.ECANCELED && ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case r.err != nil:
		return nil, r.err
	case r.fds == nil:
		<-p.Over
		return nil, syscall.EMFILE
	}
	p.Stdout, p.Stderr = os.NewFile(uintptr(r.fds[0]), "stdout"), os.NewFile(uintptr(r.fds[1]), "stderr")
	if s.Pipe {
		p.Stdin = os.NewFile(uintptr(r.fds[2]), "stdin")
	}
	return p, nil
}

// send sends a request. It assigns the next number if p has none.
func (p *Process) send(k kind, payload ...[]byte) error {
	p.c.mu.Lock()
	defer p.c.mu.Unlock()
	if p.ID == 0 {
		p.c.lastID++
		p.ID = p.c.lastID
	}
	err := p.c.write(k, p.ID, payload...)
	if err == nil {
		p.c.requests[p.ID] = p
	}
	return err
}

// Cancel tells the monitor to terminate the request's processes: SIGTERM now,
// SIGKILL later. It may be called at any time and more than once.
func (p *Process) Cancel() { p.c.send(msgCancel, p.ID) }

// handle handles a frame about p. It returns false if the frame is not expected.
// Client.mu must be held.
func (p *Process) handle(k kind, value uint32, flags byte, fds []int) bool {
	over := k == msgOver || k == msgFailed || k == msgCreated && p.Exited == nil
	switch {
	case k == msgCreated && p.state == waiting:
		if len(fds) != p.fds { // nobody could read the command's output
			closeAll(fds...)
			p.c.write(msgCancel, p.ID)
			fds = nil
		}
		p.state = running
		p.reply <- reply{fds: fds}
	case len(fds) > 0:
		return false
	case k == msgFailed && p.state == waiting:
		p.reply <- reply{err: syscall.Errno(value)}
	case k == msgExited && p.state == running:
		over = flags&exitOver != 0
		p.exit(syscall.WaitStatus(value), flags&exitTimedOut != 0, over, nil)
	case k == msgOver && p.state == exited:
		close(p.Over)
	default:
		return false
	}
	if over {
		delete(p.c.requests, p.ID)
	}
	return true
}

func (p *Process) exit(st syscall.WaitStatus, timedOut, over bool, err error) {
	p.state, p.Status, p.TimedOut, p.Err = exited, st, timedOut, err
	if over {
		close(p.Over)
	}
	close(p.Exited)
}

// disconnect ends p without an answer from the monitor.
func (p *Process) disconnect(err error) {
	switch p.state {
	case waiting:
		p.reply <- reply{err: err}
	case running:
		p.exit(syscall.WaitStatus(syscall.SIGKILL), false, true, err)
	case exited:
		close(p.Over)
	}
}

// A Spool is a file without a name. The core writes it, and a command then reads
// it from the beginning as its standard input.
type Spool struct {
	*os.File

	c    *Client
	id   uint64
	used bool // it is the standard input of a command
}

// Spool asks the monitor for a spool file. The error is that of [Client.Start].
func (c *Client) Spool() (*Spool, error) {
	p := &Process{c: c, fds: 1, reply: make(chan reply, 1)}
	if err := p.send(msgSpool); err != nil {
		return nil, err
	}
	r := <-p.reply
	switch {
	case r.err != nil:
		return nil, r.err
	case r.fds == nil:
		return nil, syscall.EMFILE
	}
	return &Spool{File: os.NewFile(uintptr(r.fds[0]), "spool"), c: c, id: p.ID}, nil
}

// Close closes the file. The monitor keeps its own descriptor for the command
// that the file was given to, if any.
func (s *Spool) Close() error {
	if !s.used {
		s.c.send(msgCancel, s.id)
	}
	return s.File.Close()
}
