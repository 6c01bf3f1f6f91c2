package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/user"
	"runtime"
	"strconv"
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
		"enforced", perms.Enforced(), "user", userName(os.Geteuid()), "sandbox", confined,
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
	return fmt.Sprintf("%#04o %s:%s", mode.Perm(), userName(uid), groupName(gid))
}

func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return u.Username
	}
	return strconv.Itoa(uid)
}

func groupName(gid int) string {
	if g, err := user.LookupGroupId(strconv.Itoa(gid)); err == nil {
		return g.Name
	}
	return strconv.Itoa(gid)
}

// status asks the core for its counters; coreStats writes the line. A core that
// does not answer does not keep the line back.
func (m *monitor) status() {
	c := m.serving
	if c == nil || !c.ready {
		m.log.Info("status", "uptime", time.Since(m.began).Round(time.Second).String(), "core", "none", "restarts", m.restarts)
		return
	}
	if c.answer != nil {
		return
	}
	if !c.asked {
		m.ask(c)
	}
	c.answer = m.loop.After(answerTime, func() { m.statusLine(c, "core does not answer") })
}

func (m *monitor) coreStats(c *coreProcess, s spawn.Stats) {
	if !c.asked {
		m.coreBroken(c, fmt.Errorf("%w: counters unasked", spawn.ErrBreach))
		return
	}
	c.asked = false
	c.stats = s
	if c.answer != nil {
		c.answer.Stop()
		m.statusLine(c)
	}
}

// statusLine writes what is known, and why that may be old news.
func (m *monitor) statusLine(c *coreProcess, trouble ...any) {
	c.answer = nil
	if len(trouble) > 0 {
		trouble = []any{"trouble", trouble[0]}
	}
	all := m.past
	for _, x := range m.cores {
		all.AddTotals(x.stats)
	}
	if m.cores[c.pid] == nil { // it has just died
		all.AddTotals(c.stats)
	}
	m.log.Info("status", append([]any{"uptime", time.Since(m.began).Round(time.Second).String(), "core", c.pid,
		"served", all.Served, "running", m.sup.Running(), "queued", c.stats.Queued,
		"refused", all.Refused, "conns", c.stats.Conns, "restarts", m.restarts,
		"dropped_records", m.journal.Dropped() + all.Dropped}, trouble...)...)
}
