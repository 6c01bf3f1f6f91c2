package control

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/process"
)

// request is a core's request to start a command, until no process of it is left.
type request struct {
	p     *Peer
	id    uint64
	cmd   process.Command
	stdin int // for process.Supervisor.Start, which closes it
	turn  *process.Turn
	group *process.Group // nil while the request waits for its turn
}

// start handles msgStart. It changes nothing before the whole message has been
// checked.
func (p *Peer) start(f frame) error {
	script, vars, ok := strings.Cut(string(f.payload[min(1, len(f.payload)):]), "\x00")
	if !ok || f.payload[0] > stdinSpool {
		return violation("malformed start")
	}
	r := &request{p: p, id: f.id, stdin: process.StdinNull}
	if f.payload[0] == stdinSpool {
		if r.stdin, ok = p.spools[f.id]; !ok {
			return violation("no spool file %d", f.id)
		}
	} else if err := p.newID(f.id); err != nil {
		return err
	}
	if f.payload[0] == stdinPipe {
		r.stdin = process.StdinPipe
	}
	if len(p.requests) >= p.o.Max {
		return violation("more than %d requests at once", p.o.Max)
	}
	cmd, failed := p.o.Command(script)
	switch {
	case failed == nil:
		r.cmd = *cmd
	case !errors.As(failed, new(syscall.Errno)):
		return violation("script %.64q: %v", script, failed)
	}
	var err error
	if r.cmd.Env, err = checkVars(append(make([]string, 0, len(r.cmd.Env)+32), r.cmd.Env...), vars, p.o.Filter); err != nil {
		return err
	}
	delete(p.spools, f.id)
	p.requests[f.id] = r
	if failed != nil {
		r.fail(failed)
		return nil
	}
	r.turn = p.sup.Ask(r.begin)
	return nil
}

// begin starts the command. It is called when a slot is free, or with an error.
func (r *request) begin(err error) {
	var fds []int
	if err == nil {
		r.group, fds, err = r.p.sup.Start(&r.cmd, r.stdin, r)
		r.stdin = process.StdinNull
	}
	if err != nil {
		r.fail(err)
		return
	}
	r.cmd = process.Command{}
	r.group.ID = r.id
	r.p.answer(msgCreated, r.id, 0, 0, fds...)
}

func (r *request) fail(err error) {
	if r.stdin >= 0 {
		unix.Close(r.stdin)
	}
	delete(r.p.requests, r.id)
	r.p.failed(r.id, err)
}

// cancel terminates the processes, or gives up the place in the queue.
func (r *request) cancel(reason string) {
	if r.group != nil {
		r.group.Terminate(reason)
	} else if r.turn.Cancel() {
		r.fail(unix.ECANCELED)
	}
}

// OnExit implements [process.Handler].
func (r *request) OnExit(status syscall.WaitStatus, over bool) {
	flags := byte(0)
	if over {
		flags |= exitOver
		delete(r.p.requests, r.id)
	}
	if r.group.TimedOut() {
		flags |= exitTimedOut
	}
	r.p.answer(msgExited, r.id, uint32(status), flags)
}

// OnEmpty implements [process.Handler].
func (r *request) OnEmpty() {
	delete(r.p.requests, r.id)
	r.p.answer(msgOver, r.id, 0, 0)
}

// cancel handles msgCancel. The request may be over already: it crosses msgOver.
func (p *Peer) cancel(f frame) error {
	if len(f.payload) != 0 || f.id == 0 || f.id > p.lastID {
		return violation("cancel of request %d, which never began", f.id)
	}
	if r := p.requests[f.id]; r != nil {
		r.cancel("request ended")
	} else if fd, ok := p.spools[f.id]; ok {
		unix.Close(fd)
		delete(p.spools, f.id)
	}
	return nil
}

// spool handles msgSpool.
func (p *Peer) spool(f frame) error {
	if len(f.payload) != 0 {
		return violation("malformed request for a spool file")
	}
	if err := p.newID(f.id); err != nil {
		return err
	}
	if len(p.spools) >= p.o.MaxSpools {
		p.failed(f.id, unix.EMFILE)
		return nil
	}
	write, read, err := process.NewSpool(p.o.SpoolDir)
	if err != nil {
		p.o.Log.Error("cannot make a spool file", "dir", p.o.SpoolDir, "error", err)
		p.failed(f.id, err)
		return nil
	}
	p.spools[f.id] = read
	p.answer(msgCreated, f.id, 0, 0, write)
	return nil
}

// newID checks that request numbers increase. So no number is used twice.
func (p *Peer) newID(id uint64) error {
	if id <= p.lastID {
		return violation("request number %d after %d", id, p.lastID)
	}
	p.lastID = id
	return nil
}
