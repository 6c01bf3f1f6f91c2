package front

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/onewake/onewake/internal/cgi"
)

// fcgiConn is a connection. One goroutine reads it, another one answers the
// current request.
type fcgiConn struct {
	f *FastCGI
	*conn

	// These are for the goroutine that reads.
	in       *bufio.Reader
	buf      []byte       // content of the last record
	incoming *fcgiRequest // its parameters are incomplete

	wmu sync.Mutex // held during a write

	mu      sync.Mutex
	current *fcgiRequest // is being answered
	closing bool         // no further request is served
}

// fcgiRequest is a request.
type fcgiRequest struct {
	id       uint16
	keep     bool // keep the connection
	params   []byte
	tooLarge bool // params is incomplete, because it would exceed maxParams
	cancel   context.CancelCauseFunc

	body     *io.PipeWriter
	left     int64 // bytes of the body to come; -1 if unknown
	bodyRead bool  // the body is complete; guarded by fcgiConn.mu
}

// record is a record without its padding. content is valid until the next record
// is read.
type record struct {
	kind    byte
	id      uint16
	content []byte
}

// serve reads records until the connection is closed.
func (c *fcgiConn) serve() {
	for {
		rec, err := c.next()
		if err == nil {
			err = c.handle(rec)
		}
		if err != nil {
			if c.isStalled(err) {
				_, err = io.Copy(io.Discard, c.in) // see fcgiWriter.finish
			}
			c.fail(err)
			return
		}
	}
}

// next reads a record.
func (c *fcgiConn) next() (record, error) {
	c.conn.mu.Lock()
	c.setPartial(c.in.Buffered() > 0 || c.incoming != nil)
	c.conn.mu.Unlock()
	var h [fcgiHeader]byte
	if _, err := io.ReadFull(c.in, h[:]); err != nil {
		return record{}, err
	}
	if h[0] != fcgiVersion {
		hint := ""
		if 'A' <= h[0] && h[0] <= 'Z' {
			hint = ", which could be HTTP"
		}
		return record{}, fcgiError(fmt.Sprintf("record begins with %d%s", h[0], hint))
	}
	n := int(binary.BigEndian.Uint16(h[4:]))
	c.buf = slices.Grow(c.buf[:0], n)[:n]
	if _, err := io.ReadFull(c.in, c.buf); err != nil {
		return record{}, err
	}
	_, err := c.in.Discard(int(h[6]))
	return record{kind: h[1], id: binary.BigEndian.Uint16(h[2:]), content: c.buf}, err
}

// handle handles a record. It ignores records of unknown requests.
func (c *fcgiConn) handle(rec record) error {
	c.mu.Lock()
	current, closing := c.current, c.closing
	c.mu.Unlock()
	r := c.incoming
	switch {
	case closing:
	case rec.id == 0:
		return c.manage(rec)
	case rec.kind == fcgiBegin && (r != nil || current != nil):
		return c.write(appendEnd(nil, rec.id, 0, fcgiCantMpx))
	case rec.kind == fcgiBegin:
		return c.begin(rec)
	case rec.kind == fcgiAbort && current != nil && current.id == rec.id:
		c.abort(current)
	case rec.kind == fcgiStdin && current != nil && current.id == rec.id:
		c.addBody(current, rec.content)
	case r == nil || r.id != rec.id:
	case rec.kind == fcgiAbort:
		c.incoming = nil
		return c.refuse(r.id, fcgiComplete, r.keep)
	case rec.kind == fcgiParams && r.addParams(rec.content):
		c.incoming = nil
		return c.answer(r)
	}
	return nil
}

// manage answers a management record (§ 4).
func (c *fcgiConn) manage(rec record) error {
	if rec.kind != fcgiGetValues {
		return c.write(appendRecord(nil, fcgiUnknown, 0, []byte{rec.kind, 0, 0, 0, 0, 0, 0, 0}))
	}
	values := map[string]string{
		"FCGI_MAX_CONNS": strconv.Itoa(c.f.MaxConns), "FCGI_MAX_REQS": strconv.Itoa(c.f.MaxConns), "FCGI_MPXS_CONNS": "0",
	}
	var out []byte
	err := eachPair(string(rec.content), func(name, _ string) {
		if v, ok := values[name]; ok {
			delete(values, name)
			out = append(append(append(out, byte(len(name)), byte(len(v))), name...), v...)
		}
	})
	if err != nil {
		return err
	}
	return c.write(appendRecord(nil, fcgiResult, 0, out))
}

// begin begins a request (§ 5.1). Its parameters must arrive within Times.Header.
func (c *fcgiConn) begin(rec record) error {
	if len(rec.content) != 8 {
		return fcgiError(fmt.Sprintf("begin record of %d bytes", len(rec.content)))
	}
	role, keep := binary.BigEndian.Uint16(rec.content), rec.content[2]&fcgiKeepConn != 0
	if role != fcgiResponder {
		return c.refuse(rec.id, fcgiUnknownRole, keep)
	}
	c.SetReadDeadline(time.Now().Add(c.f.Times.Header))
	c.incoming = &fcgiRequest{id: rec.id, keep: keep}
	return nil
}

// refuse ends a request without output.
func (c *fcgiConn) refuse(id uint16, status byte, keep bool) error {
	if err := c.write(appendEnd(nil, id, 0, status)); err != nil {
		return err
	}
	if !keep {
		return io.EOF
	}
	return c.SetReadDeadline(time.Now().Add(c.f.Times.Idle))
}

// addParams adds parameters. It reports whether they are complete, or too large;
// then it keeps a part for the log. An empty record is the last one.
func (r *fcgiRequest) addParams(content []byte) bool {
	if r.tooLarge = len(r.params)+len(content) > maxParams; r.tooLarge {
		content = content[:maxParams-len(r.params)]
		r.keep = false
	}
	r.params = append(r.params, content...)
	return len(content) == 0 || r.tooLarge
}

// answer starts answering a request.
func (c *fcgiConn) answer(r *fcgiRequest) error {
	req, err := c.request(r)
	if e := fcgiError(""); errors.As(err, &e) {
		return e
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	body, bw := io.Pipe()
	r.params, r.cancel, r.body, r.left = nil, cancel, bw, req.Length
	req.Body = body
	c.setBusy(true)
	c.mu.Lock()
	c.current = r
	c.mu.Unlock()
	c.awaitBody(r, r.left == 0)
	go func() {
		w := &fcgiWriter{ctx: ctx, c: c, r: req, record: appendRecord(nil, fcgiStdout, r.id, nil)}
		c.f.serve(ctx, req, w, err)
		cancel(nil)
		body.Close()
		w.finish(r)
	}()
	return nil
}

// addBody passes a part of the body to the goroutine that answers r. What exceeds
// CONTENT_LENGTH is ignored.
func (c *fcgiConn) addBody(r *fcgiRequest, content []byte) {
	end := len(content) == 0
	if r.left >= 0 {
		content = content[:min(int64(len(content)), r.left)]
		r.left -= int64(len(content))
		end = end || r.left == 0
	}
	if len(content) > 0 {
		r.body.Write(content) // fails if r has been answered
	}
	c.awaitBody(r, end)
}

// awaitBody ends the body, or sets the read deadline for its next part.
func (c *fcgiConn) awaitBody(r *fcgiRequest, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if r.bodyRead = r.bodyRead || end; r.bodyRead {
		r.body.Close()
	}
	switch {
	case c.current != r: // it has been answered
	case r.bodyRead:
		c.SetReadDeadline(time.Time{})
	default:
		c.SetReadDeadline(time.Now().Add(c.f.Times.IO))
	}
}

// isStalled reports whether err is a timeout while a body is read. The request is
// then answered, but the rest of the input cannot be parsed.
func (c *fcgiConn) isStalled(err error) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.current
	if r == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	r.keep = false
	r.body.CloseWithError(cgi.ErrBodyStalled)
	c.SetReadDeadline(time.Time{})
	return true
}

// fail handles an error of a read: it ends the connection and the current
// request.
func (c *fcgiConn) fail(err error) {
	c.mu.Lock()
	r, closing := c.current, c.closing
	c.closing = true
	c.mu.Unlock()
	if !closing {
		c.logError(err)
	}
	if r == nil {
		c.wmu.Lock() // wait for a write to return
		defer c.wmu.Unlock()
		c.Close()
		return
	}
	r.body.CloseWithError(cgi.ErrClientGone)
	if err == io.EOF && c.listener.Unix {
		c.waitClosed() // the client may have shut down only its sending half
	}
	c.abort(r) // then fcgiWriter.finish closes the connection
}

// abort ends a request because the client has given it up. The client may not
// read the answer any more, so a write that is waiting for it fails.
func (c *fcgiConn) abort(r *fcgiRequest) {
	r.cancel(cgi.ErrClientGone) // no write of output begins after this
	r.body.CloseWithError(cgi.ErrClientGone)
	if c.wmu.TryLock() {
		c.wmu.Unlock()
	} else {
		c.Close()
	}
}

// logError logs a violation of the protocol, if there was no such record lately.
func (c *fcgiConn) logError(err error) {
	if e := fcgiError(""); errors.As(err, &e) {
		c.f.Gate.logLimited("malformed", slog.LevelWarn, "not FastCGI", "listen", c.listener.Name, "error", e)
	}
}

// write writes complete records.
func (c *fcgiConn) write(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	_, err := c.Write(b)
	return err
}
