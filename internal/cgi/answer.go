package cgi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/onewake/onewake/internal/control"
)

var (
	errFailed = &Refusal{Status: 500, Reason: "the command failed"}
	errKilled = &Refusal{Status: 502, Reason: "the command was killed"}
)

// answer is one process and the answer that is made of its output.
type answer struct {
	g    *Gateway
	p    *control.Process
	id   string // Request.ID
	body *body  // standard input of p

	r *Request // for use until done is closed
	w Writer   // likewise

	ctx    context.Context
	cancel context.CancelCauseFunc
	done   chan struct{} // closed when the answer is complete
	logged bool          // the exit status has been logged or need not be
}

func (a *answer) log() *slog.Logger { return a.g.log(a.id, a.p.ID) }

// answer answers r with the output of p. It returns the location of a local
// redirect, or "". It takes over the slot and b.
func (g *Gateway) answer(ctx context.Context, r *Request, w Writer, b *body, p *control.Process) (location string) {
	g.running.Add(1)
	b.closeFile()
	r.Record.Process, r.Record.Exit, r.Record.ExitStatus = p.ID, "", 0
	a := &answer{g: g, p: p, id: r.ID, body: b, r: r, w: w, done: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancelCause(ctx)
	if p.Stdin != nil {
		go func() {
			p.Stdin.Write(b.memory) // a command need not read it
			p.Stdin.Close()
		}()
	}
	released := make(chan struct{})
	go a.watch(released)
	block := g.blocks.Get().(*[]byte)
	var err error
	if g.CGI {
		location, err = a.cgi((*block)[:blockSize])
	} else {
		err = a.raw(*block)
	}
	g.blocks.Put(block)
	a.end(err)
	over := isClosed(p.Over)
	a.cancel(nil)
	close(a.done)
	if over { // then the next request of the client gets the slot
		<-released
	}
	return location
}

// raw answers with the output as the body. It holds the output back until the
// command exits or the output exceeds a block, because a failed command is
// answered with an error.
func (a *answer) raw(buf []byte) error {
	n := 0
	var eof error
	for n < len(buf) && eof == nil && !(a.g.Stream && n > 0) {
		var m int
		m, eof = a.read(buf[n:])
		n += m
	}
	fields := []Field{{"Content-Type", a.g.ContentType}}
	if eof == nil {
		a.w.Begin(200, fields, -1)
		if _, err := a.copy(buf[:n], buf, -1); err != nil {
			return err
		}
	}
	if _, err := a.wait(nil); err != nil {
		return err
	}
	if a.p.Status != 0 {
		return errFailed
	}
	if eof == nil {
		return nil
	}
	a.w.Begin(200, fields, int64(n))
	_, err := a.copy(buf[:n], buf, int64(n))
	return err
}

// cgi answers as the output says (RFC 3875 § 6).
func (a *answer) cgi(buf []byte) (location string, err error) {
	n, end, next := 0, -1, 0
	var eof error
	for end < 0 && eof == nil && n < len(buf) {
		var m int
		m, eof = a.read(buf[n:])
		n += m
		end, next = headerEnd(buf[:n], next)
	}
	resp, local, err := a.parse(buf[:n], end)
	if err != nil {
		return "", a.invalid(err, eof != nil)
	}
	if !local || a.r.Redirect == nil {
		return "", a.respond(&resp, buf, end, n, eof != nil)
	}
	for eof == nil { // a request has only one process at a time
		_, eof = a.read(buf)
	}
	if _, err := a.wait(nil); err != nil {
		return "", err
	}
	if a.p.Status.Signaled() {
		return "", errKilled
	}
	return resp.location, nil
}

// parse parses output whose header ends at end; end is negative if the header is
// not complete. local reports whether the response is a local redirect.
func (a *answer) parse(output []byte, end int) (resp response, local bool, err error) {
	if len(output) == 0 {
		return resp, false, fmt.Errorf("%w: no output", errBadResponse)
	}
	head := output
	if end >= 0 {
		head = output[:end]
	}
	resp, err = parseResponse(head)
	switch {
	case len(output) == blockSize && end < 0:
		err = fmt.Errorf("%w: header longer than 64 KiB", errBadResponse)
	case err != nil:
	case end < 0:
		err = fmt.Errorf("%w: no empty line after the header", errBadResponse)
	default:
		local, err = resp.isLocal(a.g.ScriptName)
	}
	return resp, local, err
}

// respond sends a response whose header ends at end. buf holds n bytes of
// output.
func (a *answer) respond(resp *response, buf []byte, end, n int, eof bool) error {
	for !eof && n < len(buf) { // send what is available together with the header
		m, err := tryRead(a.p.Stdout, buf[n:])
		n += m
		if eof = err != nil; m == 0 {
			break
		}
	}
	code, length, have := resp.code(), resp.length, int64(n-end)
	empty := a.r.Method == "HEAD" || code == 204 || code == 205 || code == 304
	if resp.twice {
		a.log().Warn("second Content-Type ignored")
	}
	if code == 205 && have > 0 {
		a.log().Warn("body of a 205 response dropped")
	}
	if !empty && length >= 0 && (have > length || eof && have < length) {
		return a.invalid(fmt.Errorf("%w: Content-Length is %d, but the body has %d bytes", errBadResponse, length, have), eof)
	}
	switch {
	case code == 204 || code == 205:
		length = -1
	case eof && !empty && length < 0:
		if err := a.checkExit(); err != nil {
			return err
		}
		length = have
	}
	a.w.Begin(code, resp.all(), length)
	if empty {
		return nil
	}
	missing, err := a.copy(buf[end:n], buf, length)
	if err == nil && missing != 0 {
		err = a.checkExit()
	}
	if err == nil && missing > 0 {
		a.log().Error("response is shorter than its Content-Length", "missing", missing)
		a.w.Cut()
	}
	return err
}

// wait waits until the process has exited. exited is false if limit is
// received first. The error is the cause if the context is over.
func (a *answer) wait(limit <-chan time.Time) (exited bool, err error) {
	select {
	case <-a.p.Exited:
		exited = true
		if a.p.Err != nil {
			a.cancel(ErrEnding)
		} else if a.p.TimedOut { // the monitor's timer was first
			a.cancel(ErrTimeout)
		}
	case <-limit:
	case <-a.ctx.Done():
	}
	return exited, context.Cause(a.ctx)
}

// checkExit is called at the end of the output. It fails if the process was
// killed: the output may be incomplete. A process that closes its output and
// runs on delays the answer by Times.Grace at most.
func (a *answer) checkExit() error {
	exited, err := a.wait(time.After(a.g.Times.Grace))
	if err == nil && exited && a.p.Status.Signaled() {
		err = errKilled
	}
	return err
}

// invalid returns the error for an invalid response: err, or the cause if the
// context is over. At the end of the output it waits for the exit status, which
// may explain the response.
func (a *answer) invalid(err error, eof bool) error {
	if eof {
		a.wait(time.After(a.g.Times.Grace))
	}
	if cause := context.Cause(a.ctx); cause != nil {
		return cause
	}
	return err
}

// end completes the answer. err is a [Refusal], errBadResponse, or the reason
// for which the request ends early: the cause of the context, or an error of the
// writer. The process is then terminated.
func (a *answer) end(err error) {
	exited, invalid := isClosed(a.p.Exited), errors.Is(err, errBadResponse)
	if exited && a.p.Err == nil {
		st := a.p.Status
		a.r.Record.Exit, a.r.Record.ExitStatus = control.Describe(st), st.ExitStatus()
		if st.Signaled() {
			a.r.Record.ExitStatus = 128 + int(st.Signal())
		}
	}
	var refusal *Refusal
	switch {
	case err == nil || errors.As(err, &refusal) || invalid && exited:
		if exited {
			level := slog.LevelWarn
			if err != nil {
				level = slog.LevelError
			}
			a.logExit(level)
		}
	default:
		a.logged = true // the access record has the reason
		a.p.Cancel()
	}
	switch {
	case err == nil:
	case invalid:
		if !exited {
			a.r.Record.Ended = errBadResponse
		}
		a.log().Error("malformed response", "error", err)
		a.r.Refuse(a.w, 502, "malformed response from the command")
	case err == ErrTimeout:
		a.r.Record.Ended = err
		a.r.Refuse(a.w, 504, "the command took too long")
	default:
		a.r.Fail(a.w, err)
	}
}

// logExit logs the exit status if the command failed.
func (a *answer) logExit(level slog.Level) {
	a.logged = true
	if a.p.Err != nil || a.p.Status == 0 && !a.p.TimedOut {
		return
	}
	log := a.log().With("exit", control.Describe(a.p.Status))
	if a.p.TimedOut {
		log = log.With("ended", ErrTimeout)
	}
	log.Log(context.Background(), level, "command failed")
}
