package front

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/onewake/onewake/internal/cgi"
)

// fcgiWriter is the [cgi.Writer] of a request. It buffers records of standard
// output.
type fcgiWriter struct {
	c     *fcgiConn
	id    uint16
	r     *cgi.Request
	out   []byte // records that have not been sent
	open  bool   // the last record can take more
	start int    // offset of the last record
}

func (w *fcgiWriter) Begin(status int, fields []cgi.Field, length int64) {
	var b strings.Builder
	b.WriteString("Status: " + strconv.Itoa(status) + " " + http.StatusText(status) + "\r\n")
	for _, f := range fields {
		b.WriteString(f.Name + ": " + f.Value + "\r\n")
	}
	if length >= 0 {
		b.WriteString("Content-Length: " + strconv.FormatInt(length, 10) + "\r\n")
	}
	b.WriteString("\r\n")
	w.r.Record.Status = status
	w.add([]byte(b.String()))
}

func (w *fcgiWriter) Write(p []byte) (int, error) {
	if w.r.Method == http.MethodHead {
		return len(p), nil
	}
	w.r.Record.Bytes += int64(len(p))
	if w.add(p); len(w.out) < maxHead/2 {
		return len(p), nil
	}
	return len(p), w.Flush()
}

// add appends p to the open record, or to new ones.
func (w *fcgiWriter) add(p []byte) {
	for len(p) > 0 {
		if !w.open {
			w.open, w.start = true, len(w.out)
			w.out = append(w.out, make([]byte, fcgiHeader)...)
		}
		n := min(len(p), fcgiMaxContent-(len(w.out)-w.start-fcgiHeader))
		w.out = append(w.out, p[:n]...)
		if p = p[n:]; len(p) > 0 {
			w.closeRecord()
		}
	}
}

func (w *fcgiWriter) closeRecord() {
	if w.open {
		w.open = false
		putHeader(w.out[w.start:], fcgiStdout, w.id, len(w.out)-w.start-fcgiHeader)
	}
}

func (w *fcgiWriter) Flush() error {
	w.closeRecord()
	out := w.out
	w.out = out[:0]
	if len(out) == 0 {
		return nil
	}
	return clientError(w.c.write(out))
}

func (w *fcgiWriter) Cut() { w.r.Record.Cut = true }

// finish sends the rest of the answer, and closes the connection or makes it ready
// for the next request.
func (w *fcgiWriter) finish(r *fcgiRequest, body *fcgiBody) {
	c, rec := w.c, &w.r.Record
	c.wmu.Lock()
	defer c.wmu.Unlock()
	// All of this comes before the write, because the client may then send the
	// next request at once.
	c.mu.Lock()
	gone := c.closing // the client has closed the connection
	c.closing = gone || body.failed || !r.keep || rec.Cut || c.f.Gate.isClosing()
	c.current = nil
	last := c.closing
	if !last || body.handedOver {
		c.setBusy(false)
	}
	c.SetReadDeadline(time.Now().Add(c.f.Times.Idle))
	c.mu.Unlock()
	w.closeRecord()
	out := appendRecord(w.out, fcgiStdout, w.id, nil)
	out = appendEnd(out, w.id, uint32(rec.ExitStatus), fcgiComplete)
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
