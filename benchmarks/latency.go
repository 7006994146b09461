package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/caddy-capif/aef/benchmarks/load"
	"github.com/caddy-capif/aef/benchmarks/report"
	"github.com/caddy-capif/aef/benchmarks/stats"
)

// blocks is into how many blocks the revokes are divided, to say how sure a
// ratio is.
const blocks = 15

// latencies of revokes and of bare fsyncs that took turns, in milliseconds, block
// by block.
type latencies struct {
	title           string
	revokes, fsyncs [blocks][]float64
}

// latency measures how long the core waits for its 2xx, beside what the disk
// takes for one 4 KiB write and fsync in the same folder.
func (w *world) latency(ctx context.Context) ([]*latencies, error) {
	core := w.newCoreCaller()
	defer core.close()
	w.log("starting a Caddy for the latency of revokes")
	g, err := w.startCapif(ctx, "capif-latency", variant{})
	if err != nil {
		return nil, err
	}
	defer w.stopGateways()
	requests := w.requests(w.config.tokens, "/location/1")
	err = w.warm(ctx, g, requests)
	if err != nil {
		return nil, err
	}
	idle := &latencies{title: "no calls beside"}
	err = w.takeTurns(ctx, core, g, idle)
	if err != nil {
		return nil, err
	}
	loaded := &latencies{title: fmt.Sprintf("%.0f calls a second beside", w.config.rate)}
	beside, stop := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() {
		_, err := load.Run(beside, load.Options{
			Address: g.address, Connections: w.config.connections, Duration: time.Hour, Rate: w.config.rate, Requests: requests,
		})
		done <- err
	}()
	err = w.takeTurns(ctx, core, g, loaded)
	stop()
	return []*latencies{idle, loaded}, errors.Join(err, <-done)
}

func (w *world) takeTurns(ctx context.Context, core *coreCaller, g *gateway, into *latencies) error {
	w.log("revokes one after the other, %s", into.title)
	file, err := os.Create(filepath.Join(w.dir, g.name, "fsync"))
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }() // its content does not matter
	page := make([]byte, 4096)
	for i := range max(w.config.latencyCalls, blocks) {
		begin := time.Now()
		_, err := file.WriteAt(page, int64(i%256)*int64(len(page)))
		if err == nil {
			err = file.Sync()
		}
		if err != nil {
			return err
		}
		fsync := time.Since(begin)
		took, err := core.revoke(ctx, g.callback, fmt.Sprintf("revoked-%08d", w.revoked.Add(1)))
		if err != nil {
			return err
		}
		into.fsyncs[i%blocks] = append(into.fsyncs[i%blocks], 1e3*fsync.Seconds())
		into.revokes[i%blocks] = append(into.revokes[i%blocks], 1e3*took.Seconds())
	}
	return nil
}

// row is one line of the table: a quantile of both and their ratio.
func (l *latencies) row(p float64) ([]string, error) {
	var revokes, fsyncs []float64
	var ofRevokes, ofFsyncs []float64
	for i := range blocks {
		revokes, fsyncs = append(revokes, l.revokes[i]...), append(fsyncs, l.fsyncs[i]...)
		ofRevokes = append(ofRevokes, stats.Quantile(l.revokes[i], p))
		ofFsyncs = append(ofFsyncs, stats.Quantile(l.fsyncs[i], p))
	}
	e, err := stats.Ratio(ofRevokes, ofFsyncs)
	if err != nil {
		return nil, err
	}
	a, b := stats.Quantile(revokes, p), stats.Quantile(fsyncs, p)
	return []string{
		fmt.Sprintf("%s, p%.0f", l.title, 100*p), fmt.Sprintf("%.3f ms", a), fmt.Sprintf("%.3f ms", b), fmt.Sprintf("%.1fx", a/b), ratio(e),
	}, nil
}

// latencyPage is the section of docs/performance.md.
func (w *world) latencyPage(all []*latencies, head string) (string, error) {
	var rows [][]string
	for _, l := range all {
		for _, p := range []float64{0.5, 0.99} {
			row, err := l.row(p)
			if err != nil {
				return "", err
			}
			rows = append(rows, row)
		}
	}
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", head)
	fmt.Fprintf(&b, "The core's `revoke-authorization` over TLS with client certificates, on a connection that stays: from the last "+
		"byte of the request, as the core's side has written it, to the first byte of the 2xx there. %s revokes one after the "+
		"other, each after one bare 4 KiB write and fsync in the same folder. The aim is a p99 within 3x of the bare one. The "+
		"last column is the mean of the ratios of %d interleaved blocks with its 95 %% bounds.\n\n", thousands(w.config.latencyCalls), blocks)
	b.WriteString(report.Table([]string{"", "revoke", "bare fsync", "ratio", "ratio over blocks"}, rows))
	b.WriteString("\nA single revoke waits for two syncs, for that is how bbolt commits; revokes that arrive together share them.\n")
	return b.String(), nil
}

// latencyPart measures the part latency.
func (w *world) latencyPart(ctx context.Context, head string) (string, error) {
	found, err := w.latency(ctx)
	if err != nil {
		return "", err
	}
	return w.latencyPage(found, head)
}
