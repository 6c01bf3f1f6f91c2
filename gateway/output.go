package gateway

import (
	"errors"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/nbio"
	"github.com/onewake/onewake/spawn"
)

// fullWait is how long a raw answer of just one block waits to see whether it
// is all.
const fullWait = 5 * time.Millisecond

// streamPipe is the size in bytes of the pipe to or from a command that reads
// or writes more than that, so that it and we take turns less often.
const streamPipe = 512 << 10

// read reads output into p. It returns io.EOF at its end: when the pipe is
// closed, or when the process has been gone for a second and something else
// still holds the pipe. errStopped means that the run is to be ended.
func (r *run) read(p []byte) (int, error) {
	n, err := r.stdout.Read(p)
	if err == io.EOF {
		return n, r.atEOF()
	}
	if err == nil {
		return n, nil
	}
	if os.IsTimeout(err) && r.stopped() == none && r.gone() {
		return r.readLate(p)
	}
	if os.IsTimeout(err) {
		return n, errStopped
	}
	return n, err
}

// atEOF is what the end of the output means. The end of a body that did not
// come whole may have made a command end by itself, before we came to end it:
// what it says then is no answer.
func (r *run) atEOF() error {
	if r.stopped() != none {
		return errStopped
	}
	return io.EOF
}

// readLate reads what is in the pipe though its deadline has passed, which may
// have been while a slow client was waited for. More than a pipe holds comes
// from something else that has it open, and is not waited for.
func (r *run) readLate(p []byte) (int, error) {
	p = p[:min(len(p), streamPipe-r.late)]
	n, _ := nbio.Read(r.p.Stdout, p)
	if n <= 0 {
		return 0, io.EOF
	}
	r.late += n
	return n, nil
}

var errStopped = errors.New("stopped")

// halt ends the run for the reason in r.stop, and answers if that is still
// possible.
func (r *run) halt() {
	why := r.stopped()
	r.end(why.String())
	if why == timedOut && !r.x.Started() {
		r.x.Error(504, "the command took too long")
		return
	}
	r.x.Cut()
}

// waitQuick waits for the end of a command that is expected to be quick, and
// only then reads its output, which the pipe has held: one wake-up instead of
// three, and nothing to register with a poller. It returns how much output is
// in b, and whether that is all and the command has ended. If not, nothing is
// lost but a moment.
func (r *run) waitQuick(b *http1.Block) (n int, whole bool) {
	r.mu.Lock()
	late := !r.quick || r.stop != none // its event has come before EventStarted
	r.mu.Unlock()
	if late {
		return 0, false
	}
	for !r.rec.Exited {
		switch e := <-r.p.Events; e.Kind {
		case spawn.EventExited:
			r.rec.Exited, r.rec.Status = true, e.Status
		case spawn.EventFailed:
			r.interrupt(serviceGone)
			return 0, false
		default:
			return 0, false // too long, or stopped: begin sees to the rest
		}
	}
	data := b.Data()
	for n < len(data) {
		m, err := nbio.Read(r.p.Stdout, data[n:])
		if m <= 0 {
			return n, m == 0 && err == nil
		}
		n += m
	}
	return n, false
}

// raw answers with the command's output as the body, of which n bytes are in b
// already. It is held until the command ends or a block is full, since the
// exit status decides.
func (r *run) raw(b *http1.Block, n int) {
	x := r.x
	data := b.Data()
	for n < len(data) {
		m, err := r.read(data[n:])
		n += m
		if err == io.EOF {
			r.rawEnd(b, n)
			return
		}
		if err != nil {
			r.halt()
			return
		}
	}
	// A block is full. If it is all, its length can still be told.
	b2 := blockPool.Get().(*http1.Block)
	defer blockPool.Put(b2)
	m, err := r.readMore(b2.Data(), fullWait)
	if err == io.EOF && m == 0 {
		r.rawEnd(b, n)
		return
	}
	x.AddField(contentType, []byte(r.g.ContentType))
	x.Begin(200, -1)
	nbio.GrowPipe(r.p.Stdout, streamPipe)
	r.more = b2.Data()[:m]
	if !r.send(b, 0, n) {
		return
	}
	if err != nil && err != io.EOF {
		r.halt()
		return
	}
	if more := len(r.more); more > 0 {
		r.more = nil
		if !r.send(b2, 0, more) {
			return
		}
	}
	if err != io.EOF && !r.stream(b) {
		return
	}
	if !r.wait(0) {
		r.halt()
		return
	}
	if r.rec.Status != 0 {
		r.logStatus(slog.LevelError)
		x.Cut()
		return
	}
	r.last()
}

var contentType = []byte("Content-Type")

// malformed is what a client is told of a response that is none.
const malformed = "malformed response of the command"

// readMore reads what comes within d. No bytes and no error: nothing did.
func (r *run) readMore(p []byte, d time.Duration) (int, error) {
	r.mu.Lock()
	wait := r.stop == none && !r.exited
	if wait {
		r.stdout.SetReadDeadline(time.Now().Add(d))
	}
	r.mu.Unlock()
	n, err := r.stdout.Read(p)
	if err == io.EOF {
		err = r.atEOF()
	}
	if !wait {
		if os.IsTimeout(err) && r.stopped() != none {
			err = errStopped
		} else if os.IsTimeout(err) {
			return r.readLate(p)
		}
		return n, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.stop != none:
		if os.IsTimeout(err) {
			err = errStopped
		}
	case r.exited:
		r.stdout.SetReadDeadline(time.Now().Add(r.g.grace))
	default:
		r.stdout.SetReadDeadline(time.Time{})
	}
	if os.IsTimeout(err) {
		err = nil
	}
	return n, err
}

// rawEnd answers with output that fits one block.
func (r *run) rawEnd(b *http1.Block, n int) {
	if !r.wait(0) {
		r.halt()
		return
	}
	if r.rec.Status != 0 {
		r.logStatus(slog.LevelError)
		r.x.Error(500, "the command failed")
		return
	}
	r.x.AddField(contentType, []byte(r.g.ContentType))
	r.x.Begin(200, int64(n))
	r.x.Send(b, 0, n, true)
}

// send sends b.Data()[from:to] as the next part of the body; if the client is
// gone the run ends. b must be left alone until the run's end or the next send.
func (r *run) send(b *http1.Block, from, to int) bool {
	err := r.x.SendSome(b, from, to, patience)
	if err == http1.ErrSlow {
		err = r.slowClient()
	}
	if err == errStopped {
		r.halt()
		return false
	}
	if err != nil {
		r.end(clientGone.String())
		return false
	}
	return true
}

// stream passes output on as it comes, to its end. It returns false if the
// run is over.
func (r *run) stream(b *http1.Block) bool {
	for !r.eof {
		n, err := r.read(b.Data())
		if n > 0 && !r.send(b, 0, n) {
			return false
		}
		if err == io.EOF {
			return true
		}
		if err != nil {
			r.halt()
			return false
		}
	}
	return true
}

// cgi answers as the command says (RFC 3875 § 6). n bytes of output are in b
// already; eof tells whether they are all.
func (r *run) cgi(b *http1.Block, n int, eof bool) (location string) {
	data := b.Data()
	end, next := headerEnd(data[:n], 0)
	for end < 0 && !eof {
		if n == len(data) {
			return r.bad(errLongHead)
		}
		m, err := r.read(data[n:])
		n += m
		if err == io.EOF {
			eof = true
		} else if err != nil {
			r.halt()
			return ""
		}
		end, next = headerEnd(data[:n], next)
	}
	if end < 0 {
		if n == 0 {
			return r.bad(errNoHeader)
		}
		return r.bad(errMalformed)
	}
	var fields [24]field
	resp, err := parseResponse(data[:end], fields[:])
	if err != nil {
		return r.bad(err)
	}
	if resp.isLocal() {
		return r.redirect(string(resp.location), eof)
	}
	// What is there already goes out with the header; nothing is waited for.
	for !eof && n < len(data) {
		m, err := nbio.Read(r.p.Stdout, data[n:])
		if m <= 0 {
			eof = err == nil
			break
		}
		n += m
	}
	r.answer(b, &resp, end, n, eof)
	return ""
}

// answer sends a CGI response whose header and first bytes of body, from end
// to n, are in b.
func (r *run) answer(b *http1.Block, resp *response, end, n int, eof bool) {
	x := r.x
	for _, f := range resp.fields {
		x.AddField(f.name, f.value)
	}
	if resp.location != nil {
		x.AddField([]byte("Location"), resp.location)
	}
	length := resp.length
	exited := false
	if eof {
		// The whole body is here. A death by a signal may yet spoil it.
		if exited = r.wait(r.g.grace); !exited && r.stopped() != none {
			r.halt()
			return
		}
		if exited && r.rec.Status.Signaled() {
			r.logStatus(slog.LevelError)
			x.Error(502, "the command was killed")
			return
		}
		code := resp.code()
		empty := string(x.Method) == "HEAD" || code == 204 || code == 304
		if length >= 0 && length != int64(n-end) && !(empty && n == end) {
			r.contradiction(length, n-end)
			return
		}
		if length < 0 && !(empty && n == end) {
			length = int64(n - end)
		}
	}
	if length >= 0 && int64(n-end) > length && !eof {
		r.contradiction(length, n-end)
		return
	}
	x.Begin(resp.code(), length)
	if n == len(b.Data()) {
		nbio.GrowPipe(r.p.Stdout, streamPipe)
	}
	switch {
	case eof || x.NoBody() || length >= 0 && int64(n-end) >= length:
		r.done()
		if x.Send(b, end, n, true) != nil {
			r.end(clientGone.String())
			return
		}
		if !eof {
			exited = r.drain(b)
		}
	case !r.send(b, end, n):
		return
	case length >= 0:
		exited = r.streamLength(b, length-int64(n-end)-r.backlog.news())
	default:
		exited = r.streamCGI(b)
	}
	if exited && r.rec.Status != 0 {
		r.logStatus(slog.LevelWarn)
	}
}

// contradiction answers for a response of another length than it says.
func (r *run) contradiction(length int64, body int) {
	r.log(slog.LevelError, "response contradicts its Content-Length", slog.Int64("length", length), slog.Int("body", body))
	r.x.Error(502, malformed)
}

// drain throws away what the command still writes after a complete answer.
func (r *run) drain(b *http1.Block) (exited bool) {
	for {
		_, err := r.read(b.Data())
		if err == io.EOF {
			return r.wait(r.g.grace)
		}
		if err != nil {
			r.end(r.stopped().String())
			return false
		}
	}
}

// streamLength passes on the rest of a body whose length is known.
func (r *run) streamLength(b *http1.Block, left int64) (exited bool) {
	for left > 0 && !r.eof {
		n, err := r.read(b.Data())
		if n > 0 && !r.send(b, 0, n) {
			return false
		}
		left -= int64(n) + r.backlog.news()
		if err == io.EOF {
			r.eof = true
		} else if err != nil {
			r.halt()
			return false
		}
	}
	if left > 0 {
		r.log(slog.LevelError, "response is shorter than its Content-Length", slog.Int64("missing", left))
		r.x.Cut()
		return r.wait(r.g.grace)
	}
	if r.eof {
		exited = r.wait(r.g.grace)
	}
	if r.last() && !r.eof {
		return r.drain(b)
	}
	return exited
}

// streamCGI passes on a body whose end the process decides.
func (r *run) streamCGI(b *http1.Block) (exited bool) {
	if !r.stream(b) {
		return false
	}
	exited = r.wait(r.g.grace)
	if !exited && r.stopped() != none {
		r.halt()
		return false
	}
	if exited && r.rec.Status.Signaled() {
		r.x.Cut()
		return true
	}
	r.last()
	return exited
}

// bad answers for a response that is none.
func (r *run) bad(err error) string {
	r.log(slog.LevelError, err.Error())
	if errors.Is(err, errNoHeader) && r.wait(r.g.grace) && r.rec.Status != 0 {
		r.logStatus(slog.LevelError)
	}
	if !r.rec.Exited {
		r.end("bad response")
	}
	r.x.Error(502, malformed)
	return ""
}

// redirect lets the command end before the next one is started. eof tells
// whether its output has been read to the end.
func (r *run) redirect(location string, eof bool) string {
	b := blockPool.Get().(*http1.Block)
	defer blockPool.Put(b)
	for !eof {
		_, err := r.read(b.Data())
		if err == io.EOF {
			break
		}
		if err != nil {
			r.halt()
			return ""
		}
	}
	if !r.wait(0) {
		r.halt()
		return ""
	}
	return location
}

func (r *run) logStatus(level slog.Level) {
	r.log(level, "command failed", slog.String("status", spawn.Describe(r.rec.Status)))
}
