package cgi

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/onewake/onewake/internal/control"
)

// answer is one process that answers one request. What may go on when Serve has
// returned, finish and logStderr, leaves r and w alone.
type answer struct {
	g    *Gateway
	r    *Request
	w    Writer
	p    *control.Process
	id   string // r.ID
	body *body  // which it reads

	ctx    context.Context
	cancel context.CancelCauseFunc // ends ctx

	quiet  chan struct{} // closed when interrupt has ended
	stderr chan struct{} // closed when logStderr has ended
	told   bool          // how it has ended, or why it is ended, needs no more record
}

// log gives a logger for the records of the process.
func (a *answer) log() *slog.Logger {
	return a.g.Log.With("process", a.p.ID, "request_id", a.id)
}

// raw answers with the command's output as the body. It is held until the
// command ends or more than a block is there, since the exit status decides.
func (a *answer) raw(buf []byte) {
	n := 0
	var err error
	for n < len(buf) && err == nil && !(a.g.Stream && n > 0) {
		var m int
		m, err = a.read(buf[n:])
		n += m
	}
	fields := []Field{{"Content-Type", a.g.ContentType}}
	if err == nil {
		a.w.Begin(200, fields, -1)
		if !a.send(buf[:n]) || !a.stream(buf, -1) {
			return
		}
	}
	switch {
	case !a.exited(a.ctx):
		a.halt()
	case a.failed(slog.LevelError):
		a.r.Refuse(a.w, 500, "the command failed")
	case err != nil: // all of it is here
		a.w.Begin(200, fields, int64(n))
		a.send(buf[:n])
	}
}

// cgi answers as the command says (RFC 3875 § 6).
func (a *answer) cgi(buf []byte) (location string) {
	n, end, next := 0, -1, 0
	var err error
	for end < 0 && err == nil && n < len(buf) {
		var m int
		m, err = a.read(buf[n:])
		n += m
		end, next = headerEnd(buf[:n], next)
	}
	resp, inside, perr := a.parse(buf[:n], end)
	switch {
	case perr != nil:
		a.bad(perr, err != nil)
	case inside && a.r.Redirect != nil:
		for err == nil { // no request has two processes at work
			_, err = a.read(buf)
		}
		if a.exited(a.ctx); a.endedWell() {
			return resp.location
		}
	default:
		a.respond(&resp, buf, end, n, err != nil)
	}
	return ""
}

// parse parses output whose header ends at end, or before it does if that is
// negative. inside tells of a redirect that the server follows itself.
func (a *answer) parse(output []byte, end int) (resp response, inside bool, err error) {
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
		err = fmt.Errorf("%w: no empty line behind the header", errBadResponse)
	default:
		inside, err = resp.inside(a.g.ScriptName)
	}
	return resp, inside, err
}

// bad answers for a response that is none, whether the output has ended, maybe
// since the process has, or not.
func (a *answer) bad(err error, eof bool) {
	switch {
	case eof && a.exitedSoon():
		a.failed(slog.LevelError)
	case a.ctx.Err() != nil:
		a.halt()
		return
	default:
		a.end(errBadResponse)
	}
	a.log().Error("malformed response", "error", err)
	a.r.Refuse(a.w, 502, "malformed response of the command")
}

// respond sends a CGI response whose header ends at end, and of whose body there
// is something up to n in buf.
func (a *answer) respond(resp *response, buf []byte, end, n int, eof bool) {
	for !eof && n < len(buf) { // what is there goes out with the header
		m, err := tryRead(a.p.Stdout, buf[n:])
		n += m
		if eof = err != nil; m == 0 {
			break
		}
	}
	code, length, have := resp.code(), resp.length, int64(n-end)
	empty := a.r.Method == "HEAD" || code == 204 || code == 205 || code == 304
	if resp.twice {
		a.log().Warn("Content-Type twice, the first counts")
	}
	if code == 205 && have > 0 {
		a.log().Warn("205 with a body, which is dropped")
	}
	if !empty && length >= 0 && (have > length || eof && have < length) {
		a.bad(fmt.Errorf("%w: Content-Length is %d, and there are %d bytes", errBadResponse, length, have), eof)
		return
	}
	switch {
	case code == 204 || code == 205:
		length = -1
	case eof && !empty && length < 0:
		if !a.endedWell() {
			return
		}
		length = have
	}
	a.w.Begin(code, resp.all(), length)
	switch {
	case empty:
	case !a.send(buf[end:n]), !a.stream(buf, max(length-have, -1)), length < 0 && !a.endedWell():
		return
	}
	if isClosed(a.p.Exited) { // else it works on
		a.exited(a.ctx)
		a.failed(slog.LevelWarn)
	}
}
