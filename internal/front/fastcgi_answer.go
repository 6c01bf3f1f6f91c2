package front

import (
	"encoding/binary"
	"net/http"
	"strconv"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
)

// fcgiWriter writes an answer as records of standard output.
type fcgiWriter struct {
	c   *fcgiConn
	id  uint16
	r   *cgi.Request
	out []byte // records that have not been sent; the last is open
	at  int    // where the open record begins, if open
	has bool   // there is one
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
	if w.r.Method == "HEAD" {
		return len(p), nil
	}
	w.r.Record.Bytes += int64(len(p))
	w.add(p)
	if len(w.out) < maxHead/2 {
		return len(p), nil
	}
	return len(p), w.Flush()
}

// add adds to the open record, and opens more.
func (w *fcgiWriter) add(p []byte) {
	for len(p) > 0 {
		if !w.has {
			w.has, w.at = true, len(w.out)
			w.out = append(w.out, make([]byte, fcgiHeader)...)
		}
		n := min(len(p), fcgiMaxContent-(len(w.out)-w.at-fcgiHeader))
		w.out = append(w.out, p[:n]...)
		if p = p[n:]; len(p) > 0 {
			w.seal()
		}
	}
}

func (w *fcgiWriter) seal() {
	if w.has {
		w.has = false
		putHeader(w.out[w.at:], fcgiStdout, w.id, len(w.out)-w.at-fcgiHeader)
	}
}

func (w *fcgiWriter) Flush() error {
	w.seal()
	err := w.c.write(w.out)
	w.out = w.out[:0]
	return clientError(err)
}

// finish gives what is still to be sent, up to the end of the request.
func (w *fcgiWriter) finish(exit int) []byte {
	w.seal()
	w.out = appendRecord(w.out, fcgiStdout, w.id, nil)
	return appendEnd(w.out, w.id, uint32(exit), fcgiComplete)
}

func (w *fcgiWriter) Cut() { w.r.Record.Cut = true }

func putHeader(b []byte, kind byte, id uint16, content int) {
	b[0], b[1] = fcgiVersion, kind
	binary.BigEndian.PutUint16(b[2:], id)
	binary.BigEndian.PutUint16(b[4:], uint16(content))
}

func appendRecord(b []byte, kind byte, id uint16, content []byte) []byte {
	at := len(b)
	b = append(b, make([]byte, fcgiHeader)...)
	b = append(b, content...)
	putHeader(b[at:], kind, id, len(content))
	return b
}

func appendEnd(b []byte, id uint16, appStatus uint32, status byte) []byte {
	content := binary.BigEndian.AppendUint32(nil, appStatus)
	return appendRecord(b, fcgiEnd, id, append(content, status, 0, 0, 0))
}
