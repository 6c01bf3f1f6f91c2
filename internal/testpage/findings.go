package testpage

import (
	"runtime"
	"slices"
	"strings"

	"github.com/onewake/onewake/internal/cgi"
	"github.com/onewake/onewake/internal/cli"
	"github.com/onewake/onewake/sandbox"
)

// believed are the fields that -forwarded can name, in the order in which the
// page names them, and what nginx knows of what they tell.
var believed = []struct{ name, nginx string }{
	{"X-Real-IP", "$remote_addr"},
	{"X-Forwarded-For", "$proxy_add_x_forwarded_for"},
	{"X-Forwarded-Proto", "$scheme"},
	{"X-Forwarded-Host", "$host:$server_port"},
	{"X-Request-Id", "$request_id"},
	{"X-Remote-User", `""`}, // without auth_basic, $remote_user is what the client claims
}

// came tells whether the request has a field of this name.
func (v *view) came(name string) bool {
	return slices.ContainsFunc(v.wire.Fields, func(f cgi.Field) bool { return strings.EqualFold(f.Name, name) })
}

func (v *view) believes(name string) bool { return v.Forwarded&cli.ForwardedBit(name) != 0 }

func (v *view) told(name string) bool { return v.believes(name) && v.came(name) }

func (v *view) toMend(s string) { v.mend = append(v.mend, prose(s)) }
func (v *view) toKnow(s string) { v.know = append(v.know, prose(s)) }

// look finds out what there is to say.
func (v *view) look() {
	v.lookAtListener()
	if v.Setup.UID == 0 {
		v.toMend("onewake runs as root, and so would the command.")
	}
	if v.wire.Protocol == "HTTP/1.0" {
		v.toMend("the request came in HTTP/1.0, in which an answer that was cut short may look whole. nginx: `proxy_http_version 1.1;` and `proxy_set_header Connection \"\";`")
	}
	if v.Protocol == cli.FastCGI {
		v.lookAtParameters()
	} else {
		v.lookAtForwarded()
	}
	reach := "What breaks into the core, which reads what strangers send, can do what user " + v.Setup.User + " can."
	switch {
	case v.sandbox == sandbox.None:
		v.toKnow("there is no sandbox: " + sandbox.ErrUnsupported.Error() + ". " + reach)
	case v.sandbox == sandbox.Off && runtime.GOOS == "freebsd":
		v.toMend("the sandbox is off, by `-sandbox off`. " + reach)
	case v.sandbox == sandbox.Off:
		v.toKnow("the sandbox is off, by `-sandbox off`, and there is none on " + runtime.GOOS + ".")
	}
}

// lookAtListener judges who can connect, and who did.
func (v *view) lookAtListener() {
	switch uid := v.r.Peer.UID; {
	case !v.wire.Unix && v.wire.Local:
		v.toKnow("every user of this machine can connect to a port, and is believed in what `-forwarded` or FastCGI lets it say. A `unix:` socket has a mode and an owner.")
	case !v.wire.Unix:
		v.toMend("the port is not one of the loopback interface, so that other machines may reach it past a web server in front. Listen on `127.0.0.1`, or on a `unix:` socket.")
	case uid == 0 || uid > 0 && uid == v.Setup.UID:
		v.toMend("who connected is root or onewake's own user, who gets in whatever the mode says, so that this request does not show that the web server can. " +
			"If it was the web server, its workers should be another user.")
	}
	for _, n := range v.socket.Notes {
		switch {
		case !v.socket.Open:
			v.toKnow("by the mode of the socket file, " + n + ".")
		case v.Setup.Allow == "":
			v.toMend("by the mode of the socket file, " + n + ". `-socket-mode 0660` keeps others than its group out, `-allow` lets in those whom it names.")
		}
	}
}

// lookAtForwarded judges what the web server tells of the client.
func (v *view) lookAtForwarded() {
	var all, more []string // a whole -forwarded, and what is new in it
	for _, f := range believed {
		switch {
		case v.believes(f.name):
			all = append(all, f.name)
			say := v.toMend
			if f.name == "X-Remote-User" { // nginx sends no field without a value
				say = v.toKnow
			}
			if !v.came(f.name) {
				say(f.name + " is believed, by `-forwarded`, but did not come. Unless the web server sets it in each request, a client can send one of its own. " +
					"nginx: `proxy_set_header " + f.name + " " + f.nginx + ";`")
			}
		case v.came(f.name) && !(f.name == "X-Forwarded-For" && v.believes("X-Real-IP")):
			all, more = append(all, f.name), append(more, f.name)
		}
	}
	if len(more) > 0 {
		v.toKnow("not believed: " + strings.Join(more, ", ") + ". What the web server itself sets, in each request, can be: start onewake with `-forwarded " + strings.Join(all, ",") + "`")
	}
	if v.Forwarded&(cli.XRealIP|cli.XForwardedFor) == 0 && !v.came("X-Real-IP") && !v.came("X-Forwarded-For") {
		v.toKnow("the client's address is not known. nginx: `proxy_set_header X-Real-IP $remote_addr;`, and start onewake with `-forwarded " +
			strings.Join(append([]string{"X-Real-IP"}, all...), ",") + "`")
	}
}

// fieldsSent shows the header fields by which proxies tell of clients, and names
// those that reach no command.
func (v *view) fieldsSent(w *writer) {
	var withheld []string
	for _, f := range v.wire.Fields {
		name := strings.ToLower(f.Name)
		switch {
		case v.believes(name):
			w.row(f.Name, f.Value, "believed, by `-forwarded`; of several the last")
		case cli.ForwardedBit(name) != 0:
			w.row(f.Name, f.Value, "not believed, since a client can send it too")
		case strings.HasPrefix(name, "x-forwarded-"), name == "forwarded":
			w.row(f.Name, f.Value, "never believed")
		}
		_, passed := v.vars["HTTP_"+strings.ToUpper(strings.ReplaceAll(name, "-", "_"))]
		if strings.Contains(name, "_") || !passed && name != "content-length" && name != "content-type" {
			withheld = append(withheld, f.Name)
		}
	}
	if len(withheld) > 0 {
		w.row("Not passed on", strings.Join(slices.Compact(withheld), ", "), "would not reach a command")
	}
}
