/* The search of the site runs in a worker, which browsers refuse for pages opened from a folder
   (file:). There, a hidden frame takes the place of the worker; elsewhere this file does nothing. */
if (location.protocol === "file:") {
  window.Worker = class FrameWorker extends EventTarget {
    constructor(url) {
      super();
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      document.body.appendChild(this.frame);
      this.inside = this.frame.contentWindow;
      this.heard = (event) => {
        if (event.source !== this.inside) return;
        const copy = new MessageEvent("message", { data: event.data });
        this.dispatchEvent(copy);
        if (this.onmessage) this.onmessage(copy);
      };
      window.addEventListener("message", this.heard);
      const load = `
        const load = (url) => new Promise((done) => {
          const script = document.createElement("script");
          script.src = url;
          script.onload = done;
          document.body.appendChild(script);
        });
        window.postMessage = (data) => parent.postMessage(data, "*");
        window.importScripts = (...urls) =>
          urls.reduce((before, url) => before.then(() => load(url)), Promise.resolve());`;
      const script = `<script>${load}</` + `script><script src="${url}"></` + `script>`;
      this.inside.document.open();
      this.inside.document.write(`<!doctype html><html><body>${script}</body></html>`);
      this.inside.document.close();
      this.ready = new Promise((done) => (this.inside.onload = done)); // open() removes handlers
    }

    postMessage(data) {
      this.ready.then(() => this.inside.dispatchEvent(new MessageEvent("message", { data })));
    }

    terminate() {
      window.removeEventListener("message", this.heard);
      this.frame.remove();
    }
  };
}
