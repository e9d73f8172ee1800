// Receives the HTTP request on standard input as a server does, and prints the event that the SDK reads, as JSON.
package main

import (
	"bufio"
	"encoding/json"
	"log"
	"net/http"
	"os"

	cloudevents "github.com/cloudevents/sdk-go/v2"
)

func main() {
	request, err := http.ReadRequest(bufio.NewReader(os.Stdin))
	if err != nil {
		log.Fatal(err)
	}
	event, err := cloudevents.NewEventFromHTTPRequest(request)
	if err != nil {
		log.Fatal(err)
	}
	if err := event.Validate(); err != nil {
		log.Fatal(err)
	}
	attributes := map[string]any{
		"specversion":     event.SpecVersion(),
		"id":              event.ID(),
		"source":          event.Source(),
		"type":            event.Type(),
		"time":            event.Time(),
		"datacontenttype": event.DataContentType(),
	}
	for name, value := range event.Extensions() {
		attributes[name] = value
	}
	read := map[string]any{"attributes": attributes}
	var data any
	if event.DataMediaType() == cloudevents.ApplicationJSON {
		err = event.DataAs(&data)
		read["data"] = data
	} else {
		read["data_base64"] = event.Data()
	}
	if err != nil {
		log.Fatal(err)
	}
	if err := json.NewEncoder(os.Stdout).Encode(read); err != nil {
		log.Fatal(err)
	}
}
