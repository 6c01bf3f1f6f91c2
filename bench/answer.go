//go:build linux

package main

import (
	"bytes"
	"errors"
	"strconv"
)

var errAnswer = errors.New("malformed answer")

// answer reads one HTTP/1.1 answer after another from what a socket gives, in
// pieces of any size. It keeps nothing of the bodies but their length.
type answer struct {
	head   []byte // of a head that came in parts
	part   int    // where in the answer we are
	left   int64  // of the body, or of its chunk
	status int
	close  bool // the server ends the connection after this answer
	bytes  int64
}

const (
	partHead = iota
	partLength
	partUntilClose
	partChunkSize
	partChunk
	partChunkEnd
	partTrailer
)

// feed takes the next bytes. It tells whether they end the answer; more than
// that is an error, since only one request is ever under way.
func (a *answer) feed(b []byte) (done bool, err error) {
	for len(b) > 0 {
		switch a.part {
		case partHead:
			var ok bool
			if b, ok, err = a.readHead(b); err != nil || !ok {
				return false, err
			}
			if a.part == partLength && a.left == 0 {
				return a.end(b)
			}
		case partLength, partChunk:
			n := min(a.left, int64(len(b)))
			a.left -= n
			a.bytes += n
			b = b[n:]
			if a.left > 0 {
				return false, nil
			}
			if a.part == partLength {
				return a.end(b)
			}
			a.part = partChunkEnd
		case partUntilClose:
			a.bytes += int64(len(b))
			return false, nil
		default:
			var line []byte
			if line, b = a.readLine(b); line == nil {
				return false, nil
			}
			line = bytes.TrimRight(line, "\r\n")
			switch {
			case a.part == partChunkEnd:
				a.part = partChunkSize
			case a.part == partTrailer && len(line) == 0:
				a.head = a.head[:0]
				return a.end(b)
			case a.part == partChunkSize:
				size, _, _ := bytes.Cut(line, []byte(";"))
				if a.left, err = strconv.ParseInt(string(size), 16, 64); err != nil {
					return false, errAnswer
				}
				a.part = partChunk
				if a.left == 0 {
					a.part = partTrailer
				}
			}
			a.head = a.head[:0]
		}
	}
	return false, nil
}

// closed tells whether the end of the connection is a proper end of the answer.
func (a *answer) closed() bool { return a.part == partUntilClose }

func (a *answer) end(rest []byte) (bool, error) {
	a.part = partHead
	if len(rest) > 0 {
		return false, errAnswer
	}
	return true, nil
}

// readLine gives a line with its end, or nil when it has not all come.
func (a *answer) readLine(b []byte) (line, rest []byte) {
	n := bytes.IndexByte(b, '\n') + 1
	if n == 0 {
		a.head = append(a.head, b...)
		return nil, nil
	}
	if len(a.head) == 0 {
		return b[:n], b[n:]
	}
	a.head = append(a.head, b[:n]...)
	return a.head, b[n:]
}

func (a *answer) readHead(b []byte) (rest []byte, ok bool, err error) {
	head := b
	if len(a.head) > 0 {
		a.head = append(a.head, b...)
		head = a.head
	}
	n := bytes.Index(head, []byte("\r\n\r\n"))
	if n < 0 {
		if len(a.head) == 0 {
			a.head = append(a.head, b...)
		}
		return nil, false, nil
	}
	rest = b[len(b)-(len(head)-n-4):]
	head = head[:n+2]
	if len(head) < 14 || string(head[:7]) != "HTTP/1." {
		return nil, false, errAnswer
	}
	a.close = head[7] == '0'
	if a.status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return nil, false, errAnswer
	}
	a.part = partUntilClose
	for len(head) > 0 {
		eol := bytes.IndexByte(head, '\n')
		line := head[:eol-1]
		head = head[eol+1:]
		colon := bytes.IndexByte(line, ':')
		if colon < 0 {
			continue
		}
		value := bytes.TrimSpace(line[colon+1:])
		switch {
		case colon == 14 && bytes.EqualFold(line[:colon], []byte("content-length")):
			if a.left, err = strconv.ParseInt(string(value), 10, 64); err != nil {
				return nil, false, errAnswer
			}
			a.part = partLength
		case colon == 17 && bytes.EqualFold(line[:colon], []byte("transfer-encoding")):
			a.part = partChunkSize
		case colon == 10 && bytes.EqualFold(line[:colon], []byte("connection")):
			a.close = bytes.EqualFold(value, []byte("close"))
		}
	}
	a.head = a.head[:0]
	return rest, true, nil
}
