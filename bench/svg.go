//go:build linux

package main

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strings"
)

// drawn is what the comparison with the peers gave.
var drawn series

// draw makes a picture of it: a bar for each, as long as its requests per
// second are of fcgiwrap's, or of the slowest's, with the range of the rounds.
func draw(file string) error {
	type bar struct {
		name   string
		ours   bool
		spread spread
	}
	var bars []bar
	base := peerFcgiwrap
	for _, name := range []string{peerDirect, peerOnewake, peerFcgiwrap, peerLighttpd, peerApache, peerShell2http} {
		if drawn[name] == nil {
			continue
		}
		if drawn[base] == nil {
			base = name
		}
		bars = append(bars, bar{name: name, ours: name == peerDirect || name == peerOnewake})
	}
	if len(bars) == 0 {
		return errors.New("nothing to draw: -svg needs the part peers")
	}
	most := 1.0
	for i := range bars {
		bars[i].spread = spreadOf(ratios(drawn.of(bars[i].name, rate), drawn.of(base, rate)))
		most = max(most, bars[i].spread.Max)
	}
	const left, width, pitch, top = 180, 420, 34, 46
	most = math.Ceil(most*2) / 2
	x := func(v float64) float64 { return left + v/most*width }
	bottom := top + pitch*len(bars)
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="system-ui, sans-serif" font-size="13" role="img">
<title>Requests per second of onewake and its peers</title>
<rect width="100%%" height="100%%" fill="#fff"/>
<text x="12" y="24" font-size="15" font-weight="600" fill="#222">Requests per second, %s = 1</text>
`, left+width+70, bottom+52, base)
	for v := 0.0; v <= most; v += 0.5 {
		fmt.Fprintf(&b, `<path d="M%.1f %dV%d" stroke="#ddd"/><text x="%.1f" y="%d" text-anchor="middle" fill="#555">%g</text>
`, x(v), top-6, bottom, x(v), bottom+18, v)
	}
	for i, r := range bars {
		y := top + pitch*i
		fill := "#8a94a0"
		if r.ours {
			fill = "#a00"
		}
		fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="end" fill="#222">%s</text>
<rect x="%d" y="%d" width="%.1f" height="22" fill="%s"/>
<path d="M%.1f %dH%.1fm0 -5v10M%.1f %dv10" stroke="#222" fill="none"/>
<text x="%.1f" y="%d" fill="#222">%.2f</text>
`, left-10, y+16, r.name, left, y, x(r.spread.Median)-left, fill,
			x(r.spread.Min), y+11, x(r.spread.Max), x(r.spread.Min), y+6, x(r.spread.Max)+8, y+16, r.spread.Median)
	}
	fmt.Fprintf(&b, `<text x="12" y="%d" font-size="12" fill="#555">The same CGI program, 8 clients, %d interleaved rounds; bars: median, lines: range of the rounds.</text>
</svg>
`, bottom+42, bars[0].spread.Rounds)
	return os.WriteFile(file, []byte(b.String()), 0o644)
}
