package main

import (
	"github.com/onewake/onewake/gateway"
	"github.com/onewake/onewake/http1"
	"github.com/onewake/onewake/testpage"
)

// testPage is what a core without a command serves.
func (c *core) testPage(meta gateway.Meta) *testpage.Page {
	owners := make(map[string]string)
	for _, l := range c.cfg.Listeners {
		owners[l.Name] = l.Owner
	}
	return &testpage.Page{Meta: meta, About: func(x *http1.Exchange) [][2]string {
		about := [][2]string{{"listener", x.Listener.Name}}
		if o := owners[x.Listener.Name]; o != "" {
			about = append(about, [2]string{"socket mode and owner", o})
		}
		if x.Listener.Unix {
			about = append(about, [2]string{"peer", "uid " + uidString(x.Peer.UID)})
		} else {
			about = append(about, [2]string{"peer", x.Peer.Addr + " port " + x.Peer.Port})
		}
		return append(about, [2]string{"sandbox", c.confined}, [2]string{"served by", c.cfg.Software})
	}}
}
