package control

import (
	"errors"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/onewake/onewake/internal/process"
)

// request is one number of a core's for which a command is to be started, or
// has been. It is on the peer's list until nothing of it is left.
type request struct {
	p     *Peer
	id    uint64
	cmd   process.Command
	stdin int // as process.Supervisor.Start takes it; ours until then
	turn  *process.Turn
	group *process.Group // nil as long as it waits
}

func (p *Peer) start(f frame) error {
	if len(f.payload) < 1 || f.payload[0] > stdinSpool {
		return breach("malformed start")
	}
	r := &request{p: p, id: f.id, stdin: process.StdinNull}
	switch f.payload[0] {
	case stdinPipe:
		r.stdin = process.StdinPipe
	case stdinSpool:
		fd, ok := p.spools[f.id]
		if !ok {
			return breach("file %d, which is not there", f.id)
		}
		r.stdin = fd
	}
	if f.payload[0] != stdinSpool {
		if err := p.number(f.id); err != nil {
			return err
		}
	}
	if len(p.requests) >= p.o.Max {
		return breach("more than %d requests at once", p.o.Max)
	}
	script, vars, ok := strings.Cut(string(f.payload[1:]), "\x00")
	if !ok {
		return breach("malformed start")
	}
	cmd, failed := p.o.Command(script)
	if failed != nil && !errors.As(failed, new(syscall.Errno)) {
		return breach("script %.64q: %v", script, failed)
	}
	if failed == nil {
		r.cmd = *cmd
	}
	var err error
	if r.cmd.Env, err = checkVars(append(make([]string, 0, len(r.cmd.Env)+32), r.cmd.Env...), vars, p.o.Allowed); err != nil {
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

// begin starts the command when it is its turn, or there is none any more.
func (r *request) begin(err error) {
	var ends []int
	if err == nil {
		r.group, ends, err = r.p.sup.Start(&r.cmd, r.stdin, r)
		r.stdin = process.StdinNull
	}
	if err != nil {
		r.fail(err)
		return
	}
	r.cmd = process.Command{}
	r.group.ID = r.id
	r.p.answer(msgStarted, r.id, 0, 0, ends...)
}

func (r *request) fail(err error) {
	if r.stdin >= 0 {
		unix.Close(r.stdin)
	}
	delete(r.p.requests, r.id)
	r.p.refuse(msgFailed, r.id, err)
}

// end calls the start off, or ends what has been started.
func (r *request) end(why string) {
	if r.group != nil {
		r.group.End(why)
	} else if r.turn.Cancel() {
		r.fail(unix.ECANCELED)
	}
}

// OnExit is a part of [process.Handler].
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

// OnOver is a part of [process.Handler].
func (r *request) OnOver() {
	delete(r.p.requests, r.id)
	r.p.answer(msgOver, r.id, 0, 0)
}

// end ends a request, or forgets a file. It may just have ended by itself.
func (p *Peer) end(f frame) error {
	if len(f.payload) != 0 || f.id == 0 || f.id > p.lastID {
		return breach("end of request %d, which never began", f.id)
	}
	if r := p.requests[f.id]; r != nil {
		r.end("request ended")
	} else if fd, ok := p.spools[f.id]; ok {
		unix.Close(fd)
		delete(p.spools, f.id)
	}
	return nil
}

func (p *Peer) spool(f frame) error {
	if len(f.payload) != 0 {
		return breach("malformed request for a file")
	}
	if err := p.number(f.id); err != nil {
		return err
	}
	if len(p.spools) >= p.o.MaxSpools {
		p.refuse(msgNoSpool, f.id, unix.EMFILE)
		return nil
	}
	write, read, err := process.NewSpool(p.o.SpoolDir)
	if err != nil {
		p.o.Log.Error("cannot make a spool file", "dir", p.o.SpoolDir, "error", err)
		p.refuse(msgNoSpool, f.id, err)
		return nil
	}
	p.spools[f.id] = read
	p.answer(msgSpooled, f.id, 0, 0, write)
	return nil
}

// number checks that requests are numbered upwards, which makes each number
// mean one thing.
func (p *Peer) number(id uint64) error {
	if id <= p.lastID {
		return breach("request number %d after %d", id, p.lastID)
	}
	p.lastID = id
	return nil
}
