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

// fcgiConn is a connection. One goroutine at a time reads it. While the body of a
// request is read, this is the goroutine that answers the request. After that it
// is a new one, which notices an abort and goes on with the next request.
type fcgiConn struct {
	f *FastCGI
	*conn

	// For the goroutine that reads.
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
}

// record is a record without its padding. content is valid until the next record
// is read.
type record struct {
	kind    byte
	id      uint16
	content []byte
}

// serve reads records until the connection is closed or another goroutine reads.
func (c *fcgiConn) serve() {
	for {
		rec, err := c.next()
		var r *fcgiRequest
		if err == nil {
			r, err = c.handle(rec)
		}
		if err != nil {
			c.fail(err)
			return
		}
		if r != nil && c.answer(r) {
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

// handle handles a record. It returns the request if its parameters are complete.
// It ignores records of unknown requests.
func (c *fcgiConn) handle(rec record) (*fcgiRequest, error) {
	c.mu.Lock()
	current, closing := c.current, c.closing
	c.mu.Unlock()
	r := c.incoming
	switch {
	case closing:
	case rec.id == 0:
		return nil, c.manage(rec)
	case rec.kind == fcgiBegin && (r != nil || current != nil):
		return nil, c.write(appendEnd(nil, rec.id, 0, fcgiCantMpx))
	case rec.kind == fcgiBegin:
		return nil, c.begin(rec)
	case rec.kind == fcgiAbort && current != nil && current.id == rec.id:
		current.cancel(cgi.ErrClientGone)
	case r == nil || r.id != rec.id:
	case rec.kind == fcgiAbort:
		c.incoming = nil
		return nil, c.refuse(r.id, fcgiComplete, r.keep)
	case rec.kind == fcgiParams && r.add(rec.content):
		c.incoming = nil
		return r, nil
	}
	return nil, nil
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

// add adds parameters. It reports whether they are complete, or too large; then
// it keeps a part for the log. An empty record is the last one.
func (r *fcgiRequest) add(content []byte) bool {
	if r.tooLarge = len(r.params)+len(content) > maxParams; r.tooLarge {
		content = content[:maxParams-len(r.params)]
		r.keep = false
	}
	r.params = append(r.params, content...)
	return len(content) == 0 || r.tooLarge
}

// answer answers a request. It reports whether the caller must not go on reading.
func (c *fcgiConn) answer(r *fcgiRequest) (stop bool) {
	req, err := c.request(r)
	if e := fcgiError(""); errors.As(err, &e) {
		c.fail(e)
		return true
	}
	r.params = nil
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	c.setBusy(true)
	c.mu.Lock()
	c.current = r
	c.mu.Unlock()
	body := &fcgiBody{c: c, id: r.id, left: req.Length}
	req.Body = body
	body.handOver()
	w := &fcgiWriter{c: c, r: req, record: appendRecord(nil, fcgiStdout, r.id, nil)}
	c.f.serve(ctx, req, w, err)
	cancel(nil)
	w.finish(r, body)
	return body.handedOver
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
	if err == io.EOF && c.listener.Unix {
		c.waitClosed() // the client may have shut down only its sending half
	}
	r.cancel(cgi.ErrClientGone) // then fcgiWriter.finish closes the connection
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

// fcgiBody reads the body of a request from the records of standard input. It
// ends after CONTENT_LENGTH bytes even if there are more.
type fcgiBody struct {
	c          *fcgiConn
	id         uint16
	left       int64 // bytes; -1 if the length is unknown
	rest       []byte
	handedOver bool // another goroutine reads the connection
	failed     bool // the connection cannot be read any more
}

func (b *fcgiBody) Read(p []byte) (int, error) {
	for len(b.rest) == 0 {
		if b.handOver(); b.handedOver {
			return 0, io.EOF
		}
		if err := b.readRecord(); err != nil {
			return 0, err
		}
	}
	n := copy(p, b.rest)
	b.rest = b.rest[n:]
	if b.left > 0 {
		b.left -= int64(n)
	}
	b.handOver()
	return n, nil
}

func (b *fcgiBody) readRecord() error {
	b.c.SetReadDeadline(time.Now().Add(b.c.f.Times.IO))
	rec, err := b.c.next()
	if err == nil && rec.id == b.id && rec.kind == fcgiStdin {
		if b.rest = rec.content; len(b.rest) == 0 {
			b.left = 0
		} else if b.left >= 0 && int64(len(b.rest)) > b.left {
			b.rest = b.rest[:b.left]
		}
		return nil
	}
	if err == nil {
		if _, err = b.c.handle(rec); err == nil {
			if rec.id == b.id && rec.kind == fcgiAbort {
				return cgi.ErrClientGone
			}
			return nil
		}
	}
	b.failed = true
	b.c.logError(err)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return cgi.ErrBodyStalled
	}
	return cgi.ErrClientGone
}

// handOver lets another goroutine read the connection if the body has been read.
func (b *fcgiBody) handOver() {
	if b.left == 0 && len(b.rest) == 0 && !b.handedOver {
		b.handedOver = true
		b.c.SetReadDeadline(time.Time{})
		go b.c.serve()
	}
}
