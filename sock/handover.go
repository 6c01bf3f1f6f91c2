package sock

import (
	"net"
	"os"
)

// What is in this file is for a program that has another process accept, as
// onewake's monitor has its core. A server that accepts by itself needs none of it.

// File returns the listening descriptor itself, not a duplicate, for a program
// that hands it to another process. It is non-blocking and close-on-exec, and
// belongs to l.
func (l *Listener) File() *os.File { return l.file }

// LockFile returns the descriptor that holds the lock, or nil if there is none.
// It belongs to l. The lock is held until [Listener.Close], or, if the process
// ends without it, for as long as any other has a duplicate: a process that
// accepts on one of [Listener.File] should be given one of the lock as well.
func (l *Listener) LockFile() *os.File {
	if l.owned == nil {
		return nil
	}
	return l.owned.lock
}

// Unlink removes the socket file as [Listener.Close] does, so that nobody else
// can connect, and goes on listening for those who have.
func (l *Listener) Unlink() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.unlink()
}

// netListener makes a net.Listener of a duplicate of the descriptor, at the first
// Accept only: Go's poller watches what package net makes, and each connection
// would wake a process that only keeps the socket for another. So would os.NewFile
// have it watched, were a descriptor not blocking until a file is made of it.
func (l *Listener) netListener() (net.Listener, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, net.ErrClosed
	}
	var err error
	if l.ln == nil {
		l.ln, err = net.FileListener(l.file)
	}
	return l.ln, err
}
