package front

import (
	"context"
	"encoding/binary"
	"net/http"
	"strconv"
	"time"

	"github.com/onewake/onewake/internal/cgi"
)

// fcgiWriter is the [cgi.Writer] of a request.
type fcgiWriter struct {
	ctx    context.Context
	c      *fcgiConn
	r      *cgi.Request
	record []byte // of standard output, not sent; its length is not set
}

func (w *fcgiWriter) Begin(status int, fields []cgi.Field, length int64) {
	w.r.Record.Status = status
	b := []byte("Status: " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	for _, f := range fields {
		b = append(b, f.Name+": "+f.Value+"\r\n"...)
	}
	if length >= 0 {
		b = append(b, "Content-Length: "+strconv.FormatInt(length, 10)+"\r\n"...)
	}
	w.add(append(b, "\r\n"...))
}

func (w *fcgiWriter) Write(p []byte) (int, error) {
	if w.r.Method == http.MethodHead {
		return len(p), nil
	}
	w.r.Record.Bytes += int64(len(p))
	return len(p), w.add(p)
}

// add adds to the record. It sends records that are full.
func (w *fcgiWriter) add(p []byte) (err error) {
	for len(p) > 0 && err == nil {
		n := min(len(p), fcgiHeader+fcgiMaxContent-len(w.record))
		w.record = append(w.record, p[:n]...)
		if p = p[n:]; len(w.record) == fcgiHeader+fcgiMaxContent {
			err = w.Flush()
		}
	}
	return err
}

func (w *fcgiWriter) setLength() {
	binary.BigEndian.PutUint16(w.record[4:], uint16(len(w.record)-fcgiHeader))
}

func (w *fcgiWriter) Flush() error {
	if len(w.record) == fcgiHeader {
		return nil
	}
	w.c.wmu.Lock()
	defer w.c.wmu.Unlock()
	if w.ctx.Err() != nil {
		return cgi.ErrClientGone // see fcgiConn.abort
	}
	w.setLength()
	_, err := w.c.Write(w.record)
	w.record = w.record[:fcgiHeader]
	return clientError(err)
}

func (w *fcgiWriter) Cut() { w.r.Record.Cut = true }

// finish sends the rest of the answer, and closes the connection or makes it ready
// for the next request.
func (w *fcgiWriter) finish(r *fcgiRequest) {
	c, rec := w.c, &w.r.Record
	c.wmu.Lock()
	defer c.wmu.Unlock()
	// All of this comes before the write, because the client may then send the
	// next request at once.
	c.mu.Lock()
	gone := c.closing // the client has closed the connection
	c.closing = gone || !r.keep || rec.Cut || c.f.Gate.isClosing()
	c.current = nil
	last := c.closing
	if !last || r.bodyRead {
		c.setBusy(false)
	}
	c.SetReadDeadline(time.Now().Add(c.f.Times.Idle))
	c.mu.Unlock()
	w.setLength()
	out := w.record
	if len(out) > fcgiHeader { // else it is the empty record
		out = appendRecord(out, fcgiStdout, r.id, nil)
	}
	out = appendEnd(out, r.id, uint32(rec.ExitStatus), fcgiComplete)
	if rec.Cut {
		c.Close()
	} else if _, err := c.Write(out); err != nil || gone {
		c.Close()
	} else if last {
		// A client that is still sending when the connection is closed may not
		// read the answer. So the client may close it first.
		c.Conn.(interface{ CloseWrite() error }).CloseWrite()
		c.SetReadDeadline(time.Now().Add(c.f.Times.Grace))
	}
}
