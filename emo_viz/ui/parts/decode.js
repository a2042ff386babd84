const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
const shorts = (text) => new Uint16Array(bytes(text).buffer);
