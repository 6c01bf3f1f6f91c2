package front

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/internal/control"
)

// What follows is the FastCGI Specification 1.0, §§ 3 to 8.
const (
	fcgiVersion    = 1
	fcgiHeader     = 8       // of a record, in bytes
	fcgiBuffer     = 4 << 10 // of a connection, in bytes
	fcgiMaxContent = 0xfff8  // of a record that we send: no padding is needed
	fcgiKeepConn   = 1       // a flag of a begin record
	fcgiResponder  = 1       // the role
	maxParams      = maxHead // of a request, in bytes
)

// Types of records.
const (
	fcgiBegin     = 1
	fcgiAbort     = 2
	fcgiEnd       = 3
	fcgiParams    = 4
	fcgiStdin     = 5
	fcgiStdout    = 6
	fcgiGetValues = 9
	fcgiResult    = 10
	fcgiUnknown   = 11
)

// Protocol statuses of an end record.
const (
	fcgiComplete    = 0
	fcgiCantMpx     = 1
	fcgiUnknownRole = 3
)

// FastCGI is the front that speaks FastCGI as a responder: one request at a time
// on a connection, which may be kept. Nothing on the way is guessed; what is
// malformed ends the connection.
type FastCGI struct {
	*cli.Config
	Gate    *Gate
	Handler cgi.Handler
	Scripts Scripts            // nil without -scripts
	Done    func(*cgi.Request) // is told of each request when its answer is over
	Log     *slog.Logger

	names   *control.Names
	once    sync.Once
	mu      sync.Mutex
	dropped map[string]bool // parameters whose loss has been logged
}

// Serve serves a listener until it is closed.
func (f *FastCGI) Serve(l *Listener) error {
	f.once.Do(func() { f.names, f.dropped = f.Names(), make(map[string]bool) })
	for {
		nc, err := l.Accept()
		if err != nil {
			return err
		}
		c := &fcgiConn{f: f, conn: nc.(*conn)}
		go c.serve()
	}
}

// fcgiConn is a connection. Its goroutine reads all records; the request at hand
// is answered by another one.
type fcgiConn struct {
	f *FastCGI
	*conn
	wmu sync.Mutex // of writing

	mu      sync.Mutex
	current *fcgiRequest // nil between two
	last    bool         // nothing more comes: the client has closed its sending half
	until   time.Time    // it lingers
}

// fcgiRequest is the request at hand.
type fcgiRequest struct {
	c      *fcgiConn
	id     uint16
	keep   bool
	params []byte         // until they are whole
	body   *io.PipeWriter // what comes goes to body's reader; nil before
	eof    bool           // all of standard input has come
	cancel context.CancelCauseFunc
	over   chan struct{} // closed when it has been answered
}

// record is one record's header.
type record struct {
	kind    byte
	id      uint16
	content int
	padding int
}

var errNotFastCGI = errors.New("not FastCGI")

// serve reads records until the connection ends.
func (c *fcgiConn) serve() {
	defer c.end()
	in := bufio.NewReaderSize(c, fcgiBuffer) // most requests come in one piece
	var buf []byte
	for {
		if in.Buffered() == 0 {
			c.setWhole()
		}
		c.allow()
		rec, err := next(in)
		if err == nil {
			// What is in the midst of a record has the same time again.
			buf = slices.Grow(buf[:0], rec.content)[:rec.content]
			_, err = io.ReadFull(in, buf)
		}
		if err == nil {
			_, err = in.Discard(rec.padding)
		}
		if err == nil {
			err = c.handle(rec, buf)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

// end closes the connection, but not in the middle of what is being written.
func (c *fcgiConn) end() {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	c.Close()
}

// linger ends the connection when the client does, or soon: one that is still
// sending may take a connection that is closed for a failure, and never look at
// its answer.
func (c *fcgiConn) linger() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.last { // it is over already
		c.Close()
		return
	}
	c.until = time.Now().Add(c.f.Times.Grace)
	c.Conn.(interface{ CloseWrite() error }).CloseWrite()
	c.SetReadDeadline(c.until)
}

// allow sets how long the next record may take.
func (c *fcgiConn) allow() {
	c.mu.Lock()
	defer c.mu.Unlock()
	r, t := c.current, &c.f.Times
	switch {
	case !c.until.IsZero():
	case r == nil && !c.came.IsZero():
		c.SetReadDeadline(time.Now().Add(t.Header))
	case r == nil:
		c.SetReadDeadline(time.Now().Add(t.Idle))
	case r.body == nil:
		// That of the first record is for all parameters.
	case !r.eof:
		c.SetReadDeadline(time.Now().Add(t.IO))
	default:
		c.SetReadDeadline(time.Time{})
	}
}

// next reads the header of a record.
func next(in io.Reader) (rec record, err error) {
	b := make([]byte, fcgiHeader)
	if _, err := io.ReadFull(in, b); err != nil {
		return rec, err
	}
	if b[0] != fcgiVersion {
		return rec, errNotFastCGI
	}
	return record{
		kind: b[1], id: binary.BigEndian.Uint16(b[2:]), content: int(binary.BigEndian.Uint16(b[4:])), padding: int(b[6]),
	}, nil
}

// handle handles one record.
func (c *fcgiConn) handle(rec record, content []byte) error {
	if rec.id == 0 {
		return c.manage(rec.kind, content)
	}
	c.mu.Lock()
	r := c.current
	c.mu.Unlock()
	if rec.kind == fcgiBegin {
		return c.begin(r, rec.id, content)
	}
	if r == nil || r.id != rec.id {
		return nil // it is over, or never was
	}
	switch rec.kind {
	case fcgiParams:
		return r.addParams(content)
	case fcgiStdin:
		r.addBody(content)
	case fcgiAbort:
		return r.abort()
	}
	return nil
}

// manage answers a management record (§ 4).
func (c *fcgiConn) manage(kind byte, content []byte) error {
	if kind != fcgiGetValues {
		return c.write(appendRecord(nil, fcgiUnknown, 0, []byte{kind, 0, 0, 0, 0, 0, 0, 0}))
	}
	values := map[string]string{
		"FCGI_MAX_CONNS": strconv.Itoa(c.f.MaxConns), "FCGI_MAX_REQS": strconv.Itoa(c.f.MaxConns), "FCGI_MPXS_CONNS": "0",
	}
	var out []byte
	err := eachPair(string(content), func(name, _ string) {
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

// begin begins a request (§ 5.1). r is the one at hand.
func (c *fcgiConn) begin(r *fcgiRequest, id uint16, content []byte) error {
	if len(content) != 8 {
		return errNotFastCGI
	}
	role, keep := binary.BigEndian.Uint16(content), content[2]&fcgiKeepConn != 0
	switch {
	case r != nil:
		return c.write(appendEnd(nil, id, 0, fcgiCantMpx))
	case role != fcgiResponder:
		err := c.write(appendEnd(nil, id, 0, fcgiUnknownRole))
		if err == nil && !keep {
			err = io.EOF
		}
		return err
	}
	c.SetReadDeadline(time.Now().Add(c.f.Times.Header))
	c.setBusy()
	c.mu.Lock()
	c.current = &fcgiRequest{c: c, id: id, keep: keep, over: make(chan struct{})}
	c.mu.Unlock()
	return nil
}

// abort ends the request at hand (§ 5.4).
func (r *fcgiRequest) abort() error {
	if r.body != nil {
		r.eof = true // what comes yet is not looked at
		r.body.CloseWithError(cgi.ErrClientGone)
		r.cancel(cgi.ErrClientGone)
		return nil
	}
	r.c.mu.Lock()
	r.c.current = nil
	r.c.mu.Unlock()
	err := r.c.write(appendEnd(nil, r.id, 0, fcgiComplete))
	if err == nil && !r.keep {
		err = io.EOF
	}
	return err
}

// addParams takes a part of the parameters; an empty one is their end.
func (r *fcgiRequest) addParams(content []byte) error {
	if r.body != nil {
		return nil
	}
	if len(content) > 0 {
		if len(r.params)+len(content) > maxParams {
			return errNotFastCGI
		}
		r.params = append(r.params, content...)
		return nil
	}
	req, err := r.request()
	if errors.Is(err, errNotFastCGI) {
		return err
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	body, w := io.Pipe()
	r.body, r.params = w, nil
	req.Body = &fcgiBody{r: body, left: req.Length}
	go r.answer(ctx, req, body, err)
	return nil
}

// addBody takes a part of standard input; an empty one is its end. It waits
// until the part has been read. Past the end of the request it is thrown away.
func (r *fcgiRequest) addBody(content []byte) {
	switch {
	case r.body == nil || r.eof:
	case len(content) == 0:
		r.eof = true
		r.body.Close()
	default:
		r.body.Write(content)
	}
}

// fail ends what is at hand when the connection does.
func (c *fcgiConn) fail(err error) {
	c.mu.Lock()
	r := c.current
	c.last = true
	c.mu.Unlock()
	if r == nil || r.body == nil {
		return
	}
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded) && !r.eof:
		r.body.CloseWithError(cgi.ErrBodyStalled)
		<-r.over // it still gets its answer
		return
	case err == io.EOF && r.eof && c.listener.Unix:
		// Only its sending half may be closed, and it may still read.
		c.waitClosed()
	}
	r.body.CloseWithError(cgi.ErrClientGone)
	r.cancel(cgi.ErrClientGone)
	<-r.over
}

// answer has the request answered, and ends it.
func (r *fcgiRequest) answer(ctx context.Context, req *cgi.Request, body *io.PipeReader, err error) {
	defer close(r.over)
	w := &fcgiWriter{c: r.c, id: r.id, r: req}
	if err != nil {
		req.Fail(w, err)
	} else {
		r.c.f.Handler.Serve(ctx, req, w)
	}
	r.cancel(nil)
	body.CloseWithError(io.ErrClosedPipe) // what comes yet is thrown away
	if r.c.f.Done != nil {
		r.c.f.Done(req)
	}
	r.c.wmu.Lock()
	defer r.c.wmu.Unlock()
	// The next request may come as soon as the end of this one is sent. The
	// records' reader waits already, for longer than it may now.
	r.c.mu.Lock()
	r.c.current = nil
	r.c.setIdle()
	r.c.SetReadDeadline(time.Now().Add(r.c.f.Times.Idle))
	keep := r.keep && !r.c.last && !req.Record.Cut && !r.c.f.Gate.ending()
	r.c.mu.Unlock()
	switch {
	case req.Record.Cut || r.c.send(w.finish(req.Record.ExitStatus)) != nil:
		r.c.Close()
	case !keep:
		r.c.linger()
	}
}

// write sends whole records.
func (c *fcgiConn) write(b []byte) error {
	c.wmu.Lock()
	defer c.wmu.Unlock()
	return c.send(b)
}

// send is write for who holds wmu.
func (c *fcgiConn) send(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	c.SetWriteDeadline(time.Now().Add(c.f.Times.IO))
	_, err := c.Conn.Write(b)
	return err
}
