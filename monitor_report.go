package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/onewake/onewake/perms"
	"github.com/onewake/onewake/sock"
	"github.com/onewake/onewake/spawn"
)

// notes tells what an administrator should know about the start.
func (m *monitor) notes() {
	if os.Geteuid() == 0 {
		m.log.Warn("started as root: the command is root too")
	}
	for _, l := range m.listeners {
		mode, uid, gid, err := l.Info()
		if err != nil {
			continue
		}
		level := slog.LevelWarn
		if mode&0o022 == 0o020 {
			level = slog.LevelInfo // the group, and no other: what the socket's directory is for
		}
		for _, n := range perms.Notes(mode, uid, gid) {
			m.log.Log(context.Background(), level, n, "listen", l.Address().String())
		}
	}
}

// startRecord is the first record of a service that serves.
func (m *monitor) startRecord(confined string) {
	var listen, files []string
	for _, l := range m.listeners {
		listen = append(listen, listenName(l))
		if s := socketFile(l); s != "" {
			files = append(files, s)
		}
	}
	command := strings.Join(m.o.command, " ")
	if command == "" {
		command = "test page"
	}
	m.log.Info("start", "version", versionString(), "go", runtime.Version(),
		"system", runtime.GOOS+"/"+runtime.GOARCH, "listen", listen, "socket", files,
		"enforced", perms.Enforced(), "user", perms.UserName(os.Geteuid()), "sandbox", confined,
		"pid", os.Getpid(), "core", m.serving.pid, "max_procs", m.o.maxProcs, "command", command)
}

// listenName is the address as the command line would have it, with the port
// that was taken.
func listenName(l *sock.Listener) string {
	a := l.Address()
	if a.Network == sock.TCP4 || a.Network == sock.TCP6 {
		return a.Network + ":" + l.Addr().String()
	}
	return a.String()
}

// socketFile says who may do what with a socket file: "0660 onewake:www".
func socketFile(l *sock.Listener) string {
	mode, uid, gid, err := l.Info()
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%#04o %s:%s", mode.Perm(), perms.UserName(uid), perms.GroupName(gid))
}

// status asks all cores for their counters; the last answer writes the line. A
// core that does not answer does not keep the line back.
func (m *monitor) status() {
	if m.serving == nil || !m.serving.ready {
		m.log.Info("status", "uptime", time.Since(m.began).Round(time.Second).String(), "core", "none", "restarts", m.restarts)
		return
	}
	if m.answer != nil {
		return
	}
	m.about = m.serving
	for _, c := range m.cores {
		if c.ready && !c.asked {
			m.ask(c)
		}
	}
	m.answer = m.loop.After(answerTime, func() {
		if m.about.asked {
			m.statusLine("core does not answer")
		} else {
			m.statusLine("replaced core does not answer")
		}
	})
}

// coreStats takes a core's counters: an answer, or a retired core's last word.
func (m *monitor) coreStats(c *coreProcess, s spawn.Stats) {
	if !c.asked && (!c.retired || c.lastWord) {
		m.coreBroken(c, fmt.Errorf("%w: counters unasked", spawn.ErrBreach))
		return
	}
	if !c.asked {
		c.lastWord = true
	}
	c.asked = false
	c.stats = s
	m.answered()
}

// answered writes the status line that is due, if nobody is waited for any more.
func (m *monitor) answered() {
	if m.answer == nil {
		return
	}
	for _, c := range m.cores {
		if c.asked {
			return
		}
	}
	m.statusLine()
}

// statusLine writes what is known, and why that may be old news.
func (m *monitor) statusLine(trouble ...any) {
	m.answer.Stop()
	c := m.about
	m.answer, m.about = nil, nil
	if len(trouble) > 0 {
		trouble = []any{"trouble", trouble[0]}
	}
	all := m.past
	for _, x := range m.cores {
		all.AddTotals(x.stats)
	}
	m.log.Info("status", append([]any{"uptime", time.Since(m.began).Round(time.Second).String(), "core", c.pid,
		"served", all.Served, "running", m.sup.Running(), "queued", c.stats.Queued,
		"refused", all.Refused, "conns", c.stats.Conns, "restarts", m.restarts,
		"dropped_records", m.journal.Dropped() + all.Dropped}, trouble...)...)
}
